"""How long jobs waited, whatever the clock of the worker's host says, and whatever a function makes up."""

from __future__ import annotations

import math

import pytest

from dts.model import Candidate
from dts.server.attempts.plan import Reading
from dts.server.daemons.porter import wait_of
from dts.wire import dts_pb2

QUEUED = 1000.0


@pytest.mark.parametrize(
    ("started", "wait"),
    [
        (1030.0, 30.0),
        (900.0, 0.0),
        (9000.0, 40.0),
        (math.inf, 40.0),
        (1e300, 40.0),
        (-math.inf, None),
        (math.nan, None),
    ],
)
def test_a_wait_is_a_number_and_no_longer_than_the_servers_clock_allows(started: float, wait: float | None) -> None:
    batch = dts_pb2.ResultBatch(started=started)
    batch.results.add(duration=8.0)
    batch.results.add(offset=8.0, duration=2.0)
    reading = Reading(batch, Candidate("r-0", b"", ""), 0, queued=QUEUED)
    assert wait_of(reading, QUEUED + 50.0) == wait


@pytest.mark.parametrize("duration", [math.inf, math.nan, -math.inf, -1e30])
def test_a_duration_that_makes_no_sense_lengthens_no_wait(duration: float) -> None:
    batch = dts_pb2.ResultBatch(started=QUEUED + 30.0)
    batch.results.add(duration=duration)
    wait = wait_of(Reading(batch, Candidate("r-0", b"", ""), 0, queued=QUEUED), QUEUED + 50.0)
    assert wait is None or 0.0 <= wait <= 50.0


def test_nobody_knows_of_a_message_that_says_not_when_it_was_queued() -> None:
    batch = dts_pb2.ResultBatch(started=QUEUED)
    batch.results.add(duration=1.0)
    assert wait_of(Reading(batch, Candidate("r-0", b"", ""), 0), QUEUED) is None
