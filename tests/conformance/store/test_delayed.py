"""Slices of blocks that wait for a time, blocks that do, and what ends the waiting."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import replace

import pytest

from dts.model import Block, DelayedSlice, RunState, bitmap
from dts.store import Store
from tests.conformance.store.builders import at_work, backlog_of, jobs, make_block, make_run, succeeded


def make_slice(block: Block, name: str, *indices: int, due: float = 10.0, **fields: object) -> DelayedSlice:
    """A slice of a block with those jobs."""
    slice_id = f"{block.id}:{name}"
    common = DelayedSlice(slice_id, block.id, block.run, block.user, block.function, due, jobs(*indices))
    return replace(common, **fields)  # type: ignore[arg-type]


async def claimed(store: Store, now: float, *, limit: int = 100, lease: float = 60.0) -> list[str]:
    return [each.id.partition(":")[2] for each in await store.claim_delayed(now=now, limit=limit, lease=lease)]


async def a_block(store: Store, **fields: object) -> Block:
    run = make_run(**fields)  # type: ignore[arg-type]
    block = make_block(run)
    await store.add_blocks([block], run=run)
    return block


async def test_slices_come_when_they_are_due_whole_and_in_order(store: Store) -> None:
    block = await a_block(store)
    late = make_slice(block, "late", 1, due=30.0)
    early = make_slice(
        block, "early", 0, 7, due=10.0, attempt=3, kills={7: 2}, fences={0: 4}, body=b"why", content_encoding="deflate"
    )
    middle = make_slice(block, "middle", 2, due=20.0)
    assert await store.add_delayed([late, early, middle]) == [True, True, True]
    assert await store.list_delayed(block.id) == [early, middle, late]
    assert await store.claim_delayed(now=25.0, limit=1, lease=60) == [early]
    assert await claimed(store, 25.0) == ["middle"]
    assert await claimed(store, 25.0) == []


async def test_what_was_planned_is_remembered_until_a_slice_that_has_fired_is_forgotten(store: Store) -> None:
    block, other = await a_block(store), await a_block(store)
    slices = [
        make_slice(block, "second", 1, 2, attempt=2),
        make_slice(block, "another", 5, attempt=2),
        make_slice(block, "third", 1, attempt=3),
        make_slice(other, "far", 2000, attempt=7),
    ]
    await store.add_delayed(slices)
    planned = {block.id: {2: jobs(1, 2, 5), 3: jobs(1)}, other.id: {7: jobs(2000)}}
    await store.release_jobs({block.id: jobs(1, 5)})  # they have ended
    assert await store.planned_attempts({block.id: 0, other.id: 0, "none": 0}) == planned
    await store.finish_delayed([each.id for each in slices[:2]], now=100.0)
    await store.gate_delayed([slices[2].id], due=1.0)
    await store.confirm_released([slices[2].id], now=100.0)
    assert await store.planned_attempts({block.id: 0}) == {block.id: planned[block.id]}
    assert await store.forget_delayed(101.0) == 3
    assert await store.planned_attempts({block.id: 0, other.id: 0}) == {other.id: planned[other.id]}


async def test_only_later_attempts_than_one_are_told_for_each_block_its_own(store: Store) -> None:
    block, other = await a_block(store), await a_block(store)
    slices = [make_slice(each, str(attempt), attempt, attempt=attempt) for each in (block, other) for attempt in (2, 3)]
    await store.add_delayed(slices)
    await store.finish_delayed([slices[1].id], now=100.0)
    assert await store.planned_attempts({block.id: 2, other.id: 1}) == {
        block.id: {3: jobs(3)},
        other.id: {2: jobs(2), 3: jobs(3)},
    }
    assert await store.planned_attempts({block.id: 2, other.id: 2}) == {block.id: {3: jobs(3)}, other.id: {3: jobs(3)}}
    assert await store.planned_attempts({block.id: 3, other.id: 2}) == {other.id: {3: jobs(3)}}
    assert await store.planned_attempts({block.id: 3}) == {}
    assert await store.planned_attempts({}) == {}


@pytest.mark.parametrize("at_once", [1, 2, 3, 4, 8, 9])
async def test_what_was_planned_is_read_in_parts_and_told_whole(
    store: Store, monkeypatch: pytest.MonkeyPatch, at_once: int
) -> None:
    monkeypatch.setattr("dts.store.contract.shared.PLANNED_AT_ONCE", at_once)
    blocks = [await a_block(store) for _ in range(3)]
    planned = {block.id: {2: jobs(0, 1, 2), 3: jobs(1, 2), 9: jobs(2)} for block in blocks[:2]}
    await store.add_delayed(
        [
            make_slice(block, f"{attempt}.{job}", job, attempt=attempt)
            for block in blocks[:2]
            for attempt, those in planned[block.id].items()
            for job in bitmap.indices(those)
        ]
    )
    assert await store.planned_attempts({block.id: 0 for block in blocks}) == planned
    assert await store.planned_attempts({blocks[0].id: 2, blocks[1].id: 8}) == {
        blocks[0].id: {3: jobs(1, 2), 9: jobs(2)},
        blocks[1].id: {9: jobs(2)},
    }


async def test_the_same_news_twice_make_one_slice_also_after_it_fired(store: Store) -> None:
    block = await a_block(store)
    one = make_slice(block, "one", 1)
    assert await store.add_delayed([one]) == [True]
    assert await store.add_delayed([one, make_slice(block, "two", 2)]) == [False, True]
    await store.finish_delayed([one.id], now=100.0)
    assert await store.add_delayed([one]) == [False]
    assert await claimed(store, 50.0) == ["two"]
    assert [each.id for each in await store.list_delayed(block.id)] == [f"{block.id}:two"]
    assert await store.forget_delayed(99.0) == 0
    assert await store.forget_delayed(101.0) == 1
    assert await store.add_delayed([one]) == [True]


async def test_each_slice_is_claimed_by_one_of_many(store: Store, open_another: Callable[[], Store]) -> None:
    others = [store, open_another(), open_another()]
    for other in others[1:]:
        await other.start()
    block = await a_block(store)
    names = [str(number) for number in range(60)]
    await store.add_delayed([make_slice(block, name, 1) for name in names])
    taken = await asyncio.gather(*(claimed(one, 50.0, limit=5) for one in others * 6))
    while more := await claimed(store, 50.0):
        taken.append(more)
    assert sorted(name for each in taken for name in each) == sorted(names)


async def test_a_claim_of_a_slice_ends_by_itself(store: Store) -> None:
    block = await a_block(store)
    await store.add_delayed([make_slice(block, "one", 1)])
    assert await claimed(store, 20.0, lease=5.0) == ["one"]
    assert await claimed(store, 24.0) == []
    assert await claimed(store, 25.0) == ["one"]


async def test_slices_of_a_paused_run_wait(store: Store) -> None:
    held = [await a_block(store, paused=True) for _ in range(3)]
    free = await a_block(store)
    await store.add_delayed([make_slice(block, "held", 1, due=5.0) for block in held])
    await store.add_delayed([make_slice(free, "free", 1)])
    assert await claimed(store, 20.0, limit=2) == ["free"]
    await store.update_run(held[1].run, paused=False)
    assert await claimed(store, 20.0, limit=2) == ["held"]


async def test_statistics_count_what_is_delayed(store: Store) -> None:
    block = await a_block(store, user="ann")
    await store.mark_published([block.id])
    await store.record([at_work(block, [1, 2, 3])])
    await store.record([replace(at_work(block, []), stopped=jobs(1, 2))])
    await store.add_delayed([make_slice(block, "one", 1, 2)])
    for statistics in (await store.run_statistics(block.run), await store.user_statistics("ann")):
        assert (statistics.delayed, statistics.running, statistics.queued) == (2, 1, 5)
    await store.release_jobs({block.id: jobs(2)})
    assert (await store.run_statistics(block.run)).delayed == 1
    [left] = await store.list_delayed(block.id)
    assert left.jobs == jobs(1)
    await store.finish_delayed([left.id], now=1.0)
    assert (await store.run_statistics(block.run)).delayed == 0


async def test_a_block_with_a_time_is_not_published_before_and_counts_as_delayed(store: Store) -> None:
    run = make_run()
    now = time.time()
    later = replace(make_block(run, 0, created=1.0), not_before=now + 1000)
    over = replace(make_block(run, 1, created=1.0), not_before=now - 1)
    plain = make_block(run, 2, created=2.0)
    await store.add_blocks([later, over, plain], run=run)
    statistics = await store.run_statistics(run.id)
    assert (statistics.delayed, statistics.accepted, statistics.total) == (16, 8, 24)
    assert await store.get_block(later.id) == later
    blocks = await backlog_of(store, run.id, limit=10)
    assert [each.outcome.block for each in blocks] == [over.id, plain.id]
    await store.mark_published([over.id, plain.id])
    assert (await store.run_statistics(run.id)).queued == 16


async def test_a_run_keeps_what_it_asks_of_attempts(store: Store) -> None:
    run = replace(make_run(), not_before=12.5, options=b"\x08\x01")
    await store.add_run(run)
    assert await store.get_run(run.id) == run
    closed = await store.update_run(run.id, state=RunState.CLOSED)
    assert closed is not None
    assert replace(closed, finished=None) == replace(run, state=RunState.CLOSED)


async def test_overdue_blocks_are_those_with_unfinished_jobs(store: Store) -> None:
    run = make_run()
    blocks = [replace(make_block(run, number), deadline=deadline) for number, deadline in enumerate((0.0, 30.0, 20.0))]
    done = replace(make_block(run, 3), deadline=10.0)
    await store.add_blocks([*blocks, done], run=run)
    await store.record([succeeded(done, range(8))])
    assert [each.block for each in await store.overdue_blocks(now=25.0, limit=10)] == [blocks[2].id]
    assert [each.block for each in await store.overdue_blocks(now=35.0, limit=10)] == [blocks[2].id, blocks[1].id]
    await store.set_deadlines({blocks[2].id: 0.0, blocks[1].id: 40.0})
    assert await store.overdue_blocks(now=35.0, limit=10) == []
    assert [each.block for each in await store.overdue_blocks(now=45.0, limit=10)] == [blocks[1].id]


async def test_unfinished_blocks_of_a_user_or_a_function(store: Store) -> None:
    mine, other = make_run("ann"), make_run("bob")
    blocks = [make_block(mine, 0), replace(make_block(mine, 1), function="text/lower"), make_block(other, 0)]
    await store.add_blocks(blocks[:2], run=mine)
    await store.add_blocks(blocks[2:], run=other)

    async def found(**which: str) -> list[str]:
        return [each.block for each in await store.unfinished_blocks(**which)]  # type: ignore[arg-type]

    assert await found() == sorted(block.id for block in blocks)
    assert await found(user="ann") == [blocks[0].id, blocks[1].id]
    assert await found(user="ann", after=blocks[0].id) == [blocks[1].id]
    assert await found(function="text/upper") == sorted([blocks[0].id, blocks[2].id])
    assert await found(user="ann", function="text/lower") == [blocks[1].id]
    await store.record([succeeded(blocks[0], range(8))])
    assert await found(user="ann") == [blocks[1].id]


async def test_cancellations_are_remembered_for_a_while(store: Store) -> None:
    await store.note_cancelled(["a", "b"], now=10.0)
    await store.note_cancelled(["c"], now=20.0)
    await store.note_cancelled(["a"], now=30.0)
    assert await store.recently_cancelled(5.0, limit=10) == ["a", "c", "b"]
    assert await store.recently_cancelled(5.0, limit=1) == ["a"]
    assert await store.recently_cancelled(15.0, limit=10) == ["a", "c"]
    assert await store.recently_cancelled(5.0, limit=10) == ["a", "c", "b"]
    await store.forget_cancelled(15.0)
    assert await store.recently_cancelled(5.0, limit=10) == ["a", "c"]
