"""Bodies and blocks as large as they may become."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable

import pytest

from dts.model import MAX_BLOCK_SIZE, Block, DeadLetter, bitmap, new_id
from dts.store import Store
from tests.conformance.store.builders import backlog_of, failed, make_block, make_run, succeeded

MEGABYTE = 1024 * 1024


async def add(store: Store, *, body: bytes = b"jobs", block_size: int = MAX_BLOCK_SIZE) -> Block:
    run = make_run(block_size=block_size)
    block = make_block(run, body=body)
    assert await store.add_blocks([block], run=run) == [True]
    return block


async def test_a_block_of_20_megabytes(store: Store) -> None:
    block = await add(store, body=os.urandom(20 * MEGABYTE))
    assert await store.get_block(block.id) == block
    assert await store.add_blocks([block]) == [False]
    assert await store.get_block(block.id) == block
    assert [each.outcome.block for each in await backlog_of(store, block.run, limit=1)] == [block.id]


@pytest.mark.parametrize("size", [4096, 4097, 15 * MEGABYTE, 15 * MEGABYTE + 1, 20 * MEGABYTE, 31 * MEGABYTE])
async def test_a_result_of_any_size(store: Store, size: int) -> None:
    block = await add(store, block_size=8)
    body = os.urandom(1024) * (size // 1024) + b"x" * (size % 1024)
    assert await store.record([succeeded(block, [1], body)]) == [0b10]
    assert [part.body == body for part in await store.get_parts(block.id)] == [True]
    (part,) = await store.uncollected_parts(block.run, max_jobs=1)
    assert part.body == body
    assert await store.collect(block.run, [part.receipt]) == 1


async def test_large_and_small_results_of_a_block_stay_apart(store: Store) -> None:
    block = await add(store, block_size=8)
    bodies = [b"small", b"L" * 9000, b"", b"M" * 5000]
    await store.record([succeeded(block, [index], body) for index, body in enumerate(bodies)])
    assert [part.body for part in await store.get_parts(block.id)] == bodies


async def test_a_large_result_that_comes_too_late_leaves_nothing(
    store: Store, open_another: Callable[[], Store]
) -> None:
    other = open_another()
    await other.start()
    block = await add(store, block_size=64)
    rivals = [
        one.record([kind(block, [index], body * 9000) for index in range(64)])
        for one, kind, body in ((store, succeeded, b"s"), (other, failed, b"f"))
    ]
    answers = await asyncio.gather(*rivals)
    assert [sum(pair) for pair in zip(*answers, strict=True)] == [1 << index for index in range(64)]
    parts = await store.get_parts(block.id)
    assert len(parts) == 64
    assert {part.body[:1] for part in parts} <= {b"s", b"f"}
    assert {len(part.body) for part in parts} == {9000}


async def test_a_full_block_of_one_job_parts_stays_under_every_limit(store: Store) -> None:
    block = await add(store)
    body = b"x" * 4096
    for start in range(0, MAX_BLOCK_SIZE, 256):
        await store.record([succeeded(block, [index], body) for index in range(start, start + 256)])
    outcome = await store.get_outcome(block.id)
    assert outcome is not None
    assert outcome.ended == bitmap.full(MAX_BLOCK_SIZE)
    assert outcome.parts == MAX_BLOCK_SIZE
    parts = await store.uncollected_parts(block.run, max_jobs=MAX_BLOCK_SIZE)
    assert sorted(part.number for part in parts) == list(range(MAX_BLOCK_SIZE))
    assert await store.collect(block.run, [part.receipt for part in parts]) == MAX_BLOCK_SIZE
    assert await store.uncollected_parts(block.run, max_jobs=1) == []


async def test_a_dead_letter_of_20_megabytes(store: Store) -> None:
    letter = DeadLetter(new_id(), "results", "too large", os.urandom(20 * MEGABYTE), "")
    await store.add_dead_letters([letter])
    await store.add_dead_letters([letter])
    assert await store.list_dead_letters() == [letter]
