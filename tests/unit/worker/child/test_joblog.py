"""How many records a child sends in a second."""

from __future__ import annotations

import logging

import pytest

from dts.worker.child import joblog
from dts.worker.child.joblog import MAX_OF_JOB, MAX_RECORDS, _Budget


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time that a budget goes by, to be set."""
    now = [100.0]
    monkeypatch.setattr(joblog.time, "monotonic", lambda: now[0])
    return now


def test_there_is_room_again_in_the_next_second(clock: list[float]) -> None:
    budget = _Budget()
    for _ in range(2):
        assert [budget.spend(logging.INFO, "job") for _ in range(MAX_RECORDS + 1)] == [True] * MAX_RECORDS + [False]
        assert [budget.spend(logging.ERROR, "job") for _ in range(MAX_OF_JOB + 1)] == [True] * MAX_OF_JOB + [False]
        clock[0] += 1


def test_the_errors_of_many_jobs_share_what_a_child_may_send(clock: list[float]) -> None:
    budget = _Budget()
    sent = [budget.spend(logging.ERROR, f"job-{number}") for number in range(2 * MAX_RECORDS)]
    assert sent == [True] * MAX_RECORDS + [False] * MAX_RECORDS
    assert budget.spend(logging.INFO, "job-0"), "what is no error has room of its own"
