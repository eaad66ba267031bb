"""Blocks: stored once, never changed, and paged through."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from dataclasses import replace

import pytest

from dts.errors import BlockConflict
from dts.model import Outcome
from dts.store import Store
from tests.conformance.store.builders import at_work, backlog_of, make_block, make_run, succeeded


async def test_a_block_and_its_run_are_found_as_added(store: Store) -> None:
    run = make_run()
    block = replace(make_block(run, 3, count=5, body=os.urandom(1000)), content_encoding="deflate")
    assert await store.add_blocks([block], run=run) == [True]
    assert await store.get_run(run.id) == run
    assert await store.get_block(block.id) == block
    assert await store.get_block(make_block(run, 4).id) is None
    assert await store.get_outcome(block.id) == Outcome(block.id, run.id, 24, "ann", "text/upper", 5)
    assert await store.get_parts(block.id) == []


async def test_large_numbers_are_plain_ones(store: Store) -> None:
    """They go into headers of messages and into answers, where a back end's own type of number cannot be encoded."""
    run = make_run()
    block = make_block(run, 2**40)
    await store.add_blocks([block], run=run)
    (unsent,) = await backlog_of(store, run.id, limit=10)
    assert unsent.outcome.first == 2**40 * run.block_size
    assert type(unsent.outcome.first) is int


async def test_no_blocks_are_no_work(store: Store) -> None:
    run = make_run()
    assert await store.add_blocks([], run=run) == []
    assert await store.get_run(run.id) == run
    assert await store.add_blocks([]) == []
    await store.mark_published([])
    assert await store.record([]) == []
    assert await store.collect(run.id, []) == 0


async def test_a_repeat_changes_nothing(store: Store) -> None:
    run = make_run()
    block = make_block(run)
    await store.add_blocks([block], run=run)
    await store.mark_published([block.id])
    await store.record([succeeded(block, [0])])
    before = await store.get_outcome(block.id)
    later = replace(block, created=block.created + 5)
    assert await store.add_blocks([later, make_block(run, 1)], run=replace(run, paused=True)) == [False, True]
    assert await store.get_block(block.id) == replace(block, published=True)
    assert await store.get_outcome(block.id) == before
    assert await store.get_run(run.id) == run


async def test_another_block_under_a_number_is_a_conflict(store: Store) -> None:
    run = make_run()
    first, other = make_block(run, body=b"first"), make_block(run, body=b"other", count=3)
    await store.add_blocks([first], run=run)
    with pytest.raises(BlockConflict, match="block 0 of run"):
        await store.add_blocks([make_block(run, 1), other])
    assert await store.get_block(first.id) == first
    outcome = await store.get_outcome(first.id)
    assert outcome is not None
    assert outcome.count == first.count
    assert False in await store.add_blocks([make_block(run, 1), first])  # a correct repeat goes through
    assert await store.get_block(make_block(run, 1).id) is not None


async def test_of_two_different_blocks_at_once_one_wins(store: Store, open_another: Callable[[], Store]) -> None:
    other = open_another()
    await other.start()
    run = make_run()
    await store.add_run(run)
    for number in range(5):
        rivals = [make_block(run, number, body=body, count=len(body)) for body in (b"red", b"green")]
        answers = await asyncio.gather(
            store.add_blocks([rivals[0]]), other.add_blocks([rivals[1]]), return_exceptions=True
        )
        (winner,) = [block for block, answer in zip(rivals, answers, strict=True) if answer == [True]]
        assert sum(isinstance(answer, BlockConflict) for answer in answers) == 1
        assert await store.get_block(winner.id) == winner
        outcome = await store.get_outcome(winner.id)
        assert outcome is not None
        assert outcome.count == winner.count


async def test_of_equal_blocks_at_once_one_is_new(store: Store, open_another: Callable[[], Store]) -> None:
    other = open_another()
    await other.start()
    run = make_run()
    blocks = [make_block(run, number) for number in range(3)]
    answers = await asyncio.gather(*(one.add_blocks(blocks, run=run) for one in (store, other) * 3))
    assert [sum(column) for column in zip(*answers, strict=True)] == [1, 1, 1]


async def test_blocks_may_come_in_any_order_and_are_listed_by_number(store: Store) -> None:
    run, other = make_run(), make_run()
    await store.add_run(other)
    await store.add_blocks([make_block(run, number) for number in (10, 2, 0)], run=run)
    await store.add_blocks([make_block(run, 1), make_block(other, 5)])
    listed = await store.list_blocks(run.id)
    assert [outcome.block for outcome in listed] == [make_block(run, number).id for number in (0, 1, 2, 10)]
    page = await store.list_blocks(run.id, limit=2)
    assert page == listed[:2]
    assert await store.list_blocks(run.id, limit=2, after=1) == listed[2:]
    assert await store.list_blocks(run.id, after=10) == []


async def test_listed_outcomes_are_current(store: Store) -> None:
    run = make_run()
    block = make_block(run)
    await store.add_blocks([block], run=run)
    await store.record([succeeded(block, [0, 1]), at_work(block, [5])])
    assert await store.list_blocks(run.id) == [await store.get_outcome(block.id)]


async def test_a_published_block_says_so(store: Store) -> None:
    run = make_run()
    blocks = [make_block(run, number) for number in range(3)]
    await store.add_blocks(blocks, run=run)
    await store.mark_published([blocks[0].id, blocks[2].id, "no-such-block"])
    found = [await store.get_block(block.id) for block in blocks]
    assert [block is not None and block.published for block in found] == [True, False, True]


async def test_a_block_can_be_published_when_it_is_added(store: Store) -> None:
    run = make_run()
    block = replace(make_block(run, created=1.0), published=True)
    await store.add_blocks([block], run=run)
    assert await store.get_block(block.id) == block
    assert await store.backlog() == []
