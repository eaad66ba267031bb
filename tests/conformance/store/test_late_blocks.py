"""Blocks that are stored while their run is cancelled, or after that: each is seen by one of the two."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace

import pytest

from dts.errors import BlockTooLate
from dts.model import Candidate, RunState, bitmap, new_id
from dts.store import Store
from tests.conformance.store.builders import make_block, make_run


async def unswept(store: Store, *, due_before: float = 0.0) -> list[str]:
    return sorted(await store.unswept_runs(due_before=due_before, limit=100))


async def end(store: Store, block: str, count: int) -> None:
    await store.record([Candidate(block, b"cancelled", cancelled=bitmap.full(count))])


async def test_a_block_of_a_cancelled_run_comes_too_late(store: Store) -> None:
    run = make_run()
    early, late = make_block(run), make_block(run, 1)
    assert await store.add_blocks([early], run=run) == [True]
    await store.update_run(run.id, state=RunState.CANCELLED)
    with pytest.raises(BlockTooLate, match=run.id):
        await store.add_blocks([late])
    with pytest.raises(BlockTooLate, match=run.id):
        await store.add_blocks([early, late, make_block(run, 2)], run=run)
    assert await store.add_blocks([early]) == [False]  # a repeat changes nothing
    assert await store.backlog() == []


async def test_a_block_of_a_run_that_was_deleted_comes_too_late(store: Store) -> None:
    run = make_run()
    await store.add_blocks([make_block(run)], run=run)
    while not await store.delete_run(run.id, blocks=10):
        continue
    with pytest.raises(BlockTooLate, match="no longer there"):
        await store.add_blocks([make_block(run, 1)])


@pytest.mark.parametrize("state", [RunState.OPEN, RunState.CLOSED])
async def test_a_block_of_a_run_that_is_not_cancelled_is_in_time(store: Store, state: RunState) -> None:
    run = make_run(state=state)
    await store.add_run(run)
    assert await store.add_blocks([make_block(run)], run=run) == [True]
    assert await store.add_blocks([make_block(run), make_block(run, 1)], run=run) == [False, True]


async def test_of_a_block_and_the_cancelling_of_its_run_one_sees_the_other(
    store: Store, open_another: Callable[[], Store]
) -> None:
    other = open_another()
    await other.start()

    async def cancel(run: str) -> set[str]:
        await other.update_run(run, state=RunState.CANCELLED)
        return {outcome.block for outcome in await other.list_blocks(run)}

    for _ in range(20):
        run = make_run()
        await store.add_run(run)
        blocks = [make_block(run, number) for number in range(8)]
        adding = asyncio.gather(*(store.add_blocks([block]) for block in blocks), return_exceptions=True)
        seen = await cancel(run.id)
        for block, answer in zip(blocks, await adding, strict=True):
            assert isinstance(answer, BlockTooLate) or (answer == [True] and block.id in seen)


async def test_a_cancelled_run_is_left_to_be_swept_until_somebody_has_done_so(store: Store) -> None:
    runs = [make_run(created=1.0) for _ in range(3)]
    for run in runs:
        await store.add_blocks([replace(make_block(run, created=1.0), published=True)], run=run)
    assert await unswept(store) == []
    for run in runs[:2]:
        await store.update_run(run.id, state=RunState.CANCELLED, now=2.0)
    assert await unswept(store) == sorted(run.id for run in runs[:2])
    assert len(await store.unswept_runs(due_before=0.0, limit=1)) == 1
    await store.note_swept([runs[0].id, runs[2].id, new_id()])
    await store.note_swept([])
    assert await unswept(store) == [runs[1].id]
    await store.update_run(runs[0].id, state=RunState.CANCELLED)  # once more: nothing can have come since
    await store.update_run(runs[2].id, state=RunState.CANCELLED)
    assert await unswept(store) == sorted([runs[1].id, runs[2].id])


async def test_a_late_block_is_found_also_when_who_stored_it_has_died(store: Store) -> None:
    """Also when its run was swept before: the block went in and nobody came to look at the run after it."""
    run, paused, alive = make_run(), make_run(paused=True), make_run()
    for each in (run, paused, alive):
        await store.add_run(each)
        await store.add_blocks([make_block(each, 0, created=5.0)])
        later = replace(make_block(each, 1, created=5.0), not_before=50.0)
        await store.add_blocks([replace(make_block(each, 2, created=5.0), published=True), later])
    for each in (run, paused):
        await store.update_run(each.id, state=RunState.CANCELLED)
    both = sorted([run.id, paused.id])
    assert await unswept(store) == both
    await store.note_swept(both)
    assert await unswept(store, due_before=5.0) == []
    assert await unswept(store, due_before=6.0) == both
    for each in (run, paused):
        await end(store, f"{each.id}-0", each.block_size)
    assert await unswept(store, due_before=49.0) == []
    assert await unswept(store, due_before=51.0) == both
    for each in (run, paused):
        await end(store, f"{each.id}-1", each.block_size)
    assert await unswept(store, due_before=51.0) == []


async def test_a_run_is_told_once_that_is_left_over_in_both_ways(store: Store) -> None:
    run = make_run()
    await store.add_blocks([make_block(run, number, created=5.0) for number in range(3)], run=run)
    await store.update_run(run.id, state=RunState.CANCELLED)
    assert await store.unswept_runs(due_before=6.0, limit=100) == [run.id]


async def test_what_is_kept_about_cancelling_is_no_part_of_the_record(store: Store) -> None:
    run = make_run()
    await store.add_run(run)
    cancelled = await store.update_run(run.id, state=RunState.CANCELLED)
    assert cancelled is not None
    assert cancelled == replace(run, state=RunState.CANCELLED, finished=cancelled.finished)
    await store.note_swept([run.id])
    assert await store.get_run(run.id) == cancelled
    assert await store.list_runs() == [cancelled]
