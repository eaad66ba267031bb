"""The moves between states that are legal."""

from __future__ import annotations

import pytest

from dts.model import JobState, RunState, Statistics

TERMINAL = {JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED}


def test_a_job_that_has_ended_moves_no_more() -> None:
    assert {state for state in JobState if state.terminal} == TERMINAL
    assert not any(state.may_become(target) for state in TERMINAL for target in JobState)


def test_every_job_can_end() -> None:
    for start in JobState:
        reached = {start}
        for _ in JobState:
            reached |= {target for state in reached for target in JobState if state.may_become(target)}
        assert reached & TERMINAL


def test_a_delayed_job_is_queued_again_before_it_runs() -> None:
    assert {target for target in JobState if JobState.DELAYED.may_become(target)} == {
        JobState.QUEUED,
        JobState.CANCELLED,
    }


@pytest.mark.parametrize("state", list(RunState))
def test_a_run_may_stay_where_it_is(state: RunState) -> None:
    assert state.may_become(state)


def test_a_run_goes_one_way() -> None:
    order = [RunState.OPEN, RunState.CLOSED, RunState.CANCELLED]
    moves = {(a, b) for a in order for b in order if a.may_become(b) and a is not b}
    assert moves == {(a, b) for a in order for b in order if order.index(a) < order.index(b)}


def test_statistics_add_up() -> None:
    statistics = Statistics(total=22, accepted=4, running=3, succeeded=5, failed=1, cancelled=2, delayed=2)
    assert (statistics.ended, statistics.queued) == (8, 5)
    figures = statistics.as_dict()
    assert figures.pop("total") == 22 == sum(figures.values())
    assert set(figures) == {state.value for state in JobState}
    assert Statistics(total=1, running=2).queued == 0
