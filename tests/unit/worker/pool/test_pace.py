"""Which child is given work in advance, and which keeps it from others; all by times that are told."""

from __future__ import annotations

from dts.worker.pool.pace import QUICK, Pace


def test_a_child_that_has_done_nothing_yet_is_not_quick() -> None:
    pace = Pace()
    pace.began(10.0)
    pace.measure(10.1, busy=True)
    assert (pace.quick, pace.engaged) == (False, False)


def test_a_child_is_quick_from_its_first_quick_message_to_one_that_takes_its_time() -> None:
    pace = Pace()
    pace.began(10.0)
    pace.ended(0.05, 10.05)
    assert pace.quick
    pace.measure(10.05 + QUICK / 2, busy=True)
    assert (pace.quick, pace.engaged) == (True, False)
    pace.measure(10.06 + QUICK, busy=True)
    assert (pace.quick, pace.engaged) == (False, True)
    pace.ended(2.0, 12.0)
    assert (pace.quick, pace.engaged) == (False, False), "the next may be as slow, and may be not"
    pace.ended(0.01, 12.01)
    assert pace.quick


def test_what_was_quick_long_ago_says_nothing_of_what_comes_now() -> None:
    pace = Pace()
    pace.ended(0.01, 10.0)
    pace.measure(10.5, busy=False)
    assert pace.quick
    pace.measure(11.5, busy=False)
    assert (pace.quick, pace.engaged) == (False, False)


def test_an_event_loop_that_takes_nothing_is_asked_again_when_it_has_ended_something_or_ever_more_seldom() -> None:
    pace = Pace()
    pace.began(10.0)
    pace.measure_concurrent(10.1, since=10.0)
    assert not pace.engaged
    pace.measure_concurrent(10.2, since=10.0)
    assert pace.engaged
    pace.measure_concurrent(10.6, since=None)
    assert pace.engaged
    pace.measure_concurrent(10.8, since=None)
    assert not pace.engaged, "half a second has passed"
    pace.measure_concurrent(11.0, since=10.81)
    assert pace.engaged
    pace.measure_concurrent(11.8, since=None)
    assert pace.engaged, "now it takes a second"
    pace.ended(1.0, 11.9)
    assert not pace.engaged
