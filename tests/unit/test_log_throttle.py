"""A fault that lasts is logged when it begins and when it is over, whatever is met between."""

from __future__ import annotations

import logging

import pytest

from dts.runtime import log_throttle
from dts.runtime.backoff import Backoff
from dts.runtime.log_throttle import OutageLog


class Clock:
    """A clock that a test sets."""

    now = 1000.0

    def monotonic(self) -> float:
        return self.now


def test_an_outage_is_logged_twice_however_long_it_takes(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.INFO)
    clock = Clock()
    monkeypatch.setattr(log_throttle, "time", clock)
    outage = OutageLog(logging.getLogger("x"), 60.0)
    outage.worked("works")
    assert caplog.messages == []
    for _ in range(1000):
        outage.failed("disk %d is full", 1)
        clock.now += 1
    for _ in range(10):
        outage.worked("works")
    assert caplog.messages == ["disk 1 is full", "works"]


def test_one_that_comes_and_goes_is_logged_once_a_minute(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.INFO)
    clock = Clock()
    monkeypatch.setattr(log_throttle, "time", clock)
    outage = OutageLog(logging.getLogger("x"), 60.0)
    for _ in range(121):
        outage.failed("away")
        outage.worked("back")
        clock.now += 1
    assert caplog.messages == ["away", "back"] * 3


def test_pauses_double_up_to_their_bound_and_begin_anew() -> None:
    backoff = Backoff(0.1, 1.0)
    bounds = [0.1, 0.2, 0.4, 0.8, 1.0, 1.0]
    for _ in range(2):
        for bound in bounds:
            assert bound / 2 <= backoff.next_pause() <= bound
        backoff.reset()
