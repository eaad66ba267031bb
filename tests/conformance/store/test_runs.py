"""Runs and the moves between their states."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import replace

import pytest

from dts.errors import BlockTooLate, DuplicateKey
from dts.model import Run, RunState, new_id
from dts.store import Store
from tests.conformance.store.builders import make_block, make_run


async def test_a_run_is_found_as_added(store: Store) -> None:
    run = make_run(created=3.25)
    await store.add_run(run)
    assert await store.get_run(run.id) == run
    assert await store.get_run(new_id()) is None
    with pytest.raises(DuplicateKey, match=run.id):
        await store.add_run(replace(run, user="bob"))
    assert await store.get_run(run.id) == run


async def test_runs_are_listed_newest_first_page_by_page(store: Store) -> None:
    runs = [make_run(user, id=f"{number:026d}") for number, user in enumerate(("ann", "bob", "ann", "ann", "bob"))]
    for run in runs:
        await store.add_run(run)
    newest_first = runs[::-1]
    assert await store.list_runs() == newest_first
    assert await store.list_runs("ann") == [run for run in newest_first if run.user == "ann"]
    page = await store.list_runs(limit=2)
    assert page == newest_first[:2]
    assert await store.list_runs(limit=10, after=page[-1].id) == newest_first[2:]
    assert await store.list_runs("bob", after=runs[4].id) == [runs[1]]
    assert await store.list_runs("nobody") == []


async def test_runs_of_single_jobs_are_left_out_when_they_are_not_asked_for(store: Store) -> None:
    runs = [
        make_run(user, id=f"{number:026d}", single=number % 3 > 0)
        for number, user in enumerate(("ann", "bob", "ann", "ann", "bob", "ann", "bob"))
    ]
    for run in runs:
        await store.add_blocks([make_block(run)], run=run)
    assert await store.get_run(runs[1].id) == runs[1]
    files = [run for run in runs[::-1] if not run.single]
    assert await store.list_runs(single=False) == files
    assert await store.list_runs(single=False, limit=2, after=runs[6].id) == files[1:]
    assert await store.list_runs("ann", single=False) == [runs[3], runs[0]]
    assert await store.list_runs("ann", single=False, limit=1) == [runs[3]]
    assert await store.list_runs("bob", single=False) == [runs[6]]
    assert await store.list_runs() == runs[::-1]


@pytest.mark.parametrize("origin", list(RunState))
@pytest.mark.parametrize("target", list(RunState))
async def test_a_run_moves_only_where_it_may(store: Store, origin: RunState, target: RunState) -> None:
    run = make_run(state=origin)
    await store.add_run(run)
    moved = await store.update_run(run.id, state=target)
    assert moved is not None
    # `finished` has tests of its own.
    assert replace(moved, finished=None) == replace(run, state=target if origin.may_become(target) else origin)
    assert await store.get_run(run.id) == moved


async def test_pausing_is_apart_from_the_state(store: Store) -> None:
    run = make_run()
    await store.add_blocks([make_block(run)], run=run)
    assert await store.update_run(run.id, paused=True) == replace(run, paused=True)
    assert await store.update_run(run.id, state=RunState.CLOSED) == replace(run, paused=True, state=RunState.CLOSED)
    assert await store.update_run(run.id, state=RunState.OPEN, paused=False) == replace(run, state=RunState.CLOSED)
    assert await store.update_run(run.id) == replace(run, state=RunState.CLOSED)
    assert await store.update_run(new_id(), paused=True) is None
    assert await store.update_run(new_id()) is None


async def test_closing_and_cancelling_at_once_ends_cancelled(store: Store, open_another: Callable[[], Store]) -> None:
    other = open_another()
    await other.start()
    for _ in range(5):
        run = make_run()
        await store.add_blocks([make_block(run)], run=run)
        await asyncio.gather(
            store.update_run(run.id, state=RunState.CANCELLED), other.update_run(run.id, state=RunState.CLOSED)
        )
        assert await store.get_run(run.id) == replace(run, state=RunState.CANCELLED)


async def test_cancelled_runs_are_found_by_when_they_were_cancelled(store: Store) -> None:
    def run(created: float, state: RunState) -> Run:
        return make_run(created=created, state=state)

    old, new, alive = run(10, RunState.OPEN), run(20, RunState.CLOSED), run(30, RunState.CLOSED)
    unknown = run(45, RunState.CANCELLED)  # nobody has kept when
    for one in (old, new, alive, unknown):
        await store.add_run(one)
    await store.update_run(new.id, state=RunState.CANCELLED, now=40)
    await store.update_run(old.id, state=RunState.CANCELLED, now=50)
    await store.update_run(old.id, paused=True, now=70)
    await store.update_run(new.id, state=RunState.CANCELLED, now=70)  # once more: it was cancelled before
    await store.update_run(new.id, state=RunState.CLOSED, now=70)
    assert await store.cancelled_runs(0, limit=9) == [old.id, unknown.id, new.id]
    assert await store.cancelled_runs(0, limit=2) == [old.id, unknown.id]
    assert await store.cancelled_runs(45, limit=9) == [old.id]
    assert await store.cancelled_runs(50, limit=9) == []
    before = time.time()
    await store.update_run(alive.id, state=RunState.CANCELLED)
    assert await store.cancelled_runs(before - 1, limit=9) == [alive.id]


async def test_no_runs_are_listed_when_none_are_asked_for(store: Store) -> None:
    await store.add_run(make_run())
    assert await store.list_runs(limit=0) == []


async def test_many_runs_are_cancelled_by_one_call(store: Store) -> None:
    open_, closed, before, other = make_run(), make_run(state=RunState.CLOSED), make_run(created=1.0), make_run()
    for run in (open_, closed, before, replace(other, function="text/reverse")):
        await store.add_blocks([make_block(run)], run=run)
    await store.update_run(before.id, state=RunState.CANCELLED, now=5.0)
    asked = [run.id for run in (open_, closed, before, other)]
    done = await store.cancel_runs([*asked, new_id()], function="text/upper")
    assert done == {open_.id: True, closed.id: True, before.id: False}
    assert [run.id for run in await store.list_runs() if run.state is not RunState.CANCELLED] == [other.id]
    assert sorted(await store.unswept_runs(due_before=0.0, limit=9)) == sorted(done)
    assert await store.cancelled_runs(10.0, limit=9) != []
    assert before.id not in await store.cancelled_runs(10.0, limit=9)
    left = await store.unfinished_blocks(runs=sorted(done), limit=2)
    left += await store.unfinished_blocks(runs=sorted(done), limit=2, after=left[-1].block)
    assert [outcome.run for outcome in left] == sorted(done)
    with pytest.raises(BlockTooLate):
        await store.add_blocks([make_block(open_, 1)])
    assert await store.cancel_runs(asked) == {**dict.fromkeys(done, False), other.id: True}
