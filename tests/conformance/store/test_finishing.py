"""A run that is closed or cancelled has finished when its last job has ended; that is written once and stays true."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace

import pytest

from dts.errors import BlockTooLate
from dts.model import Block, Finished, Run, RunState, new_id
from dts.store import Store
from tests.conformance.store.builders import cancelled, failed, make_block, make_run, succeeded


async def a_run(store: Store, *, blocks: int = 1, **fields: object) -> tuple[Run, list[Block]]:
    """A run with blocks of eight jobs."""
    run = make_run(**fields)  # type: ignore[arg-type]
    made = [make_block(run, number) for number in range(blocks)]
    await store.add_blocks(made, run=run)
    return run, made


async def end_of(store: Store, run: Run) -> Finished | None:
    """When and how the run finished, or None."""
    found = await store.get_run(run.id)
    assert found is not None
    return found.finished


async def closed(store: Store, *runs: Run) -> list[Run]:
    """Runs as they are once they are closed, in order of when they finished: it may be the same millisecond."""
    found = [await store.update_run(run.id, state=RunState.CLOSED) for run in runs]
    return sorted((run for run in found if run), key=lambda run: (run.finished.time if run.finished else 0, run.id))


async def test_a_closed_run_finishes_with_its_last_job(store: Store) -> None:
    run, [first, second] = await a_run(store, blocks=2)
    await store.record([succeeded(first, range(8)), succeeded(second, range(3))])
    await store.update_run(run.id, state=RunState.CLOSED)
    assert await end_of(store, run) is None
    before = store.now()
    await store.record([failed(second, (3, 4))])
    assert await end_of(store, run) is None
    await store.record([cancelled(second, (5, 6, 7))])
    end = await end_of(store, run)
    assert end is not None
    assert (end.total, end.succeeded, end.failed, end.cancelled) == (16, 11, 2, 3)
    assert before - 0.1 <= end.time <= store.now() + 0.1
    assert [each.finished for each in await store.list_runs("ann")] == [end]


async def test_a_run_whose_jobs_have_ended_finishes_when_it_is_closed(store: Store) -> None:
    run, [block] = await a_run(store)
    await store.record([succeeded(block, range(8))])
    assert await end_of(store, run) is None, "it is open: more may come"
    closed = await store.update_run(run.id, state=RunState.CLOSED)
    assert closed is not None
    assert closed.finished == await end_of(store, run)
    assert closed.finished is not None
    assert closed.finished.succeeded == 8


async def test_a_run_of_nothing_finishes_when_it_is_closed(store: Store) -> None:
    run = make_run()
    await store.add_run(run)
    await store.update_run(run.id, paused=True)
    assert await end_of(store, run) is None
    await store.update_run(run.id, state=RunState.CLOSED)
    end = await end_of(store, run)
    assert end is not None
    assert end.total == 0


@pytest.mark.parametrize("at_once", [False, True], ids=["alone", "of many"])
async def test_a_cancelled_run_finishes_when_its_jobs_are_ended(store: Store, *, at_once: bool) -> None:
    run, [block] = await a_run(store)
    await store.record([succeeded(block, range(3))])
    if at_once:
        await store.cancel_runs([run.id])
    else:
        await store.update_run(run.id, state=RunState.CANCELLED)
    assert await end_of(store, run) is None
    await store.record([cancelled(block, range(3, 8))])
    await store.note_swept([run.id])
    end = await end_of(store, run)
    assert end is not None
    assert (end.succeeded, end.cancelled) == (3, 5)


async def test_cancelling_a_run_whose_jobs_have_ended_finishes_it(store: Store) -> None:
    for cancel in (store.cancel_runs, lambda ids: store.update_run(ids[0], state=RunState.CANCELLED)):
        run, [block] = await a_run(store)
        await store.record([failed(block, range(8))])
        await cancel([run.id])
        end = await end_of(store, run)
        assert end is not None
        assert end.failed == 8


async def test_a_finished_run_stays_as_it_is(store: Store) -> None:
    run, [block] = await a_run(store)
    await store.update_run(run.id, state=RunState.CLOSED)
    await store.record([succeeded(block, range(8))])
    end = await end_of(store, run)
    assert end is not None
    await store.record([succeeded(block, range(8)), failed(block, range(8))])
    assert await store.finish_runs([run.id, new_id()]) == []
    for state in RunState:
        found = await store.update_run(run.id, state=state)
        assert found is not None
        assert (found.state, found.finished) == (RunState.CLOSED, end)
    assert await store.cancel_runs([run.id]) == {}
    with pytest.raises(BlockTooLate):
        await store.add_blocks([make_block(run, 1)])
    assert await store.add_blocks([block]) == [False], "a repeat is welcome at any time"
    assert await end_of(store, run) == end


async def test_a_closed_run_takes_the_blocks_that_came_with_it_and_no_others(store: Store) -> None:
    run = make_run(state=RunState.CLOSED, single=True)
    first, second, late = (make_block(run, number) for number in range(3))
    await store.add_blocks([first], run=run)
    await store.add_blocks([first, second], run=run)  # the first call was cut off
    with pytest.raises(BlockTooLate):
        await store.add_blocks([late])
    await store.record([succeeded(first, range(8)), succeeded(second, range(8))])
    await store.record([cancelled(late, range(8))])
    end = await end_of(store, run)
    assert end is not None
    assert end.succeeded == 16


async def test_a_single_run_that_is_not_closed_by_anybody_finishes(store: Store) -> None:
    runs = []
    for _ in range(5):
        run = make_run(state=RunState.CLOSED, single=True, block_size=1)
        block = make_block(run)
        await store.add_blocks([block], run=run)
        runs.append((run, block))
    await store.record([succeeded(block, [0]) for _, block in runs[:4]])
    ends = [await end_of(store, run) for run, _ in runs]
    assert [end.total if end else None for end in ends] == [1, 1, 1, 1, None]


async def test_results_may_be_told_before_their_run_is_finished(store: Store) -> None:
    run, [block] = await a_run(store, state=RunState.CLOSED)
    await store.record([succeeded(block, range(8))], finish=False)
    await store.finish_runs([run.id])
    assert await end_of(store, run) is not None


async def test_what_a_process_left_that_died_is_finished_later(store: Store) -> None:
    left = []
    for number in range(5):
        run, [block] = await a_run(store, state=RunState.CLOSED, id=f"0000000000000000000000000{number}")
        await store.record([succeeded(block, range(8 if number != 2 else 7))], finish=False)
        left.append(run)
    after, looks = "", 0
    while looks == 0 or after:
        _, after = await store.finish_left_runs(after=after, limit=2)
        looks += 1
        assert looks < 5
    ends = [await end_of(store, run) for run in left]
    assert [end is not None for end in ends] == [True, True, False, True, True]


async def test_finished_runs_are_found_by_when_they_finished(store: Store) -> None:
    runs = [make_run(user) for user in ("ann", "bob", "cay")]
    for run in runs:
        await store.add_run(run)
    await store.add_run(make_run())
    finished = await closed(store, *runs[::-1])
    found = await store.finished_runs(limit=9)
    assert found == finished
    assert await store.finished_runs(limit=2) == found[:2]
    assert found[0].finished
    assert await store.finished_runs(after=(found[0].finished.time, found[0].id), limit=9) == found[1:]
    await store.delete_run(found[1].id, blocks=9)
    assert await store.finished_runs(limit=9) == [found[0], found[2]]


async def test_runs_with_a_follow_up_are_found_until_it_is_done(store: Store) -> None:
    first, second, early = (replace(make_run(), follow_up=True) for _ in range(3))
    for run in (first, second, early, make_run()):
        await store.add_run(run)
    assert await store.runs_to_follow_up(limit=9) == []
    await store.note_followed_up([early.id])  # not finished: it stays
    finished = await closed(store, second, first)
    assert await store.runs_to_follow_up(limit=9) == finished
    assert await store.runs_to_follow_up(limit=1) == finished[:1]
    await store.note_followed_up([finished[0].id, new_id()])
    [found] = await store.runs_to_follow_up(limit=9)
    assert found == finished[1]
    assert found.finished
    assert await store.runs_to_follow_up(after=(found.finished.time, found.id), limit=9) == []
    await store.note_followed_up([found.id])
    done = await store.get_run(found.id)
    assert done is not None
    assert (done.follow_up, done.finished) == (False, found.finished)
    await store.update_run(early.id, state=RunState.CLOSED)
    assert [run.id for run in await store.runs_to_follow_up(limit=9)] == [early.id]


async def test_the_last_job_and_the_closing_at_once(store: Store, open_another: Callable[[], Store]) -> None:
    other = open_another()
    await other.start()
    for _ in range(10):
        run, [first, second] = await a_run(store, blocks=2)
        await asyncio.gather(
            store.record([succeeded(first, range(8))]),
            other.update_run(run.id, state=RunState.CLOSED),
            other.record([failed(second, range(8)), succeeded(first, range(8))]),
        )
        end = await end_of(store, run)
        assert end is not None
        assert (end.succeeded, end.failed) == (8, 8)


async def test_a_block_and_the_closing_at_once(store: Store, open_another: Callable[[], Store]) -> None:
    """Either the block comes in time, and the run waits for it, or it is refused."""
    other = open_another()
    await other.start()
    for _ in range(20):
        run, [first] = await a_run(store)
        await store.record([succeeded(first, range(8))])
        block = make_block(run, 1)
        added, closed = await asyncio.gather(
            other.add_blocks([block]), store.update_run(run.id, state=RunState.CLOSED), return_exceptions=True
        )
        assert isinstance(closed, Run)
        if isinstance(added, BlockTooLate):
            await store.record([cancelled(block, range(8))])  # as the server does that brought it
        else:
            assert added == [True]
            assert await end_of(store, run) is None
            await other.record([succeeded(block, range(8))])
        end = await end_of(store, run)
        assert end is not None
        assert end.succeeded == (8 if isinstance(added, BlockTooLate) else 16)
