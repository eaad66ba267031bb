"""Requests by rate: so many a second, and a second's worth at once."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dts.store.contract.shared import turn

SECOND = 10**9


class Turns:
    """Takes turns at given times, in seconds."""

    def __init__(self, rate: float) -> None:
        self.rate = rate
        self._due = 0

    def wait(self, now: float) -> float:
        self._due, wait = turn(self._due, round(now * SECOND), self.rate)
        return wait


def test_a_seconds_worth_may_come_at_once_and_is_saved_up_again() -> None:
    turns = Turns(2.0)
    assert [turns.wait(100.0) for _ in range(2)] == [0.0, 0.0]
    assert turns.wait(100.0) == pytest.approx(0.5)
    assert turns.wait(100.5) == 0.0
    assert [turns.wait(200.0) for _ in range(2)] == [0.0, 0.0], "never more than a second's worth, however long it was"
    assert turns.wait(200.0) > 0


def test_a_slow_rate_lets_one_request_pass_at_a_time() -> None:
    turns = Turns(0.1)
    assert turns.wait(0.0) == 0.0
    assert turns.wait(5.0) == pytest.approx(5.0)
    assert turns.wait(10.0) == 0.0


def test_a_clock_that_is_put_back_costs_a_turn_at_most() -> None:
    turns = Turns(1.0)
    assert turns.wait(1000.0) == 0.0
    assert turns.wait(10.0) == pytest.approx(1.0)
    assert turns.wait(11.0) == 0.0


@given(rate=st.floats(0.1, 1000), pauses=st.lists(st.floats(0, 0.5), max_size=200))
def test_in_the_long_run_no_more_passes_than_the_rate_allows(rate: float, pauses: list[float]) -> None:
    turns, now, passed = Turns(rate), 0.0, 0
    for pause in pauses:
        now += pause
        passed += turns.wait(now) == 0.0
    assert passed <= max(1.0, rate) + now * rate + 1e-3


@given(rate=st.integers(1, 10_000))
def test_exactly_a_seconds_worth_comes_at_once(rate: int) -> None:
    turns = Turns(rate)
    assert all(turns.wait(5.0) == 0.0 for _ in range(rate))
    assert turns.wait(5.0) > 0
