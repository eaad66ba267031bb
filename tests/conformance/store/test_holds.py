"""Paused runs, however many, cost nothing to those who look for work."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace

import pytest
from pymongo import monitoring

from dts.model import Block, DelayedSlice, RunState, bitmap
from dts.store import Store
from dts.store.sqlite.store import SqliteStore
from tests.conformance.store.builders import backlog_of, make_block, make_run

PAUSED = 5000
AT_ONCE = 200

Look = Callable[[Store], Awaitable[list[str]]]


class Commands(monitoring.CommandListener):
    """Counts the commands that MongoDB gets."""

    count = 0

    def started(self, event: monitoring.CommandStartedEvent) -> None:
        self.count += 1

    def succeeded(self, event: monitoring.CommandSucceededEvent) -> None:
        """Nothing: it was counted when it started."""

    def failed(self, event: monitoring.CommandFailedEvent) -> None:
        """Nothing: it was counted when it started."""


COMMANDS = Commands()
monitoring.register(COMMANDS)


async def cost(store: Store, look: Look) -> tuple[list[str], int]:
    """What a look finds, and what it costs: commands to MongoDB, or hundreds of instructions of SQLite."""
    if not isinstance(store, SqliteStore):
        before = COMMANDS.count
        return await look(store), COMMANDS.count - before
    steps = 0

    def step() -> int:
        nonlocal steps
        steps += 1
        return 0

    for thread in (store._reader, store._writer):
        await thread.submit(lambda db: db.set_progress_handler(step, 100))
    return await look(store), steps


async def unpublished(store: Store) -> list[str]:
    return [each.outcome.run for each in await backlog_of(store)]


async def due(store: Store) -> list[str]:
    return [each.run for each in await store.claim_delayed(now=5.0, limit=20, lease=-5.0)]


async def gated(store: Store) -> list[str]:
    return [each.run for each in await store.list_gated("ann", "text/upper", limit=20)]


async def at_broker(store: Store) -> list[str]:
    return [each.run for each in await store.published_blocks(function="text/upper", older_than=1e10, limit=20)]


def slices(block: Block) -> list[DelayedSlice]:
    """Jobs of a block that are due, and others at the gate."""
    about = block.id, block.run, block.user, block.function, 2.0, bitmap.full(block.count)
    return [DelayedSlice(f"{block.id}.{gated}", *about, attempt=2, gated=gated) for gated in (False, True)]


async def add(store: Store, *, paused: bool = False, state: RunState = RunState.OPEN) -> str:
    """A run with two blocks, one of which is published, and with slices; its id."""
    run = make_run()
    blocks = [replace(make_block(run, number, created=1.0), published=bool(number)) for number in range(2)]
    await store.add_blocks(blocks, run=run)
    await store.add_delayed(slices(blocks[1]))
    if paused:
        await store.update_run(run.id, paused=True)
    if state is not RunState.OPEN:
        await store.update_run(run.id, state=state)
    return run.id


async def add_paused(store: Store, count: int) -> None:
    """Runs that are paused, with a block to publish, one that is published, and slices."""
    runs = [make_run(paused=True) for _ in range(count)]
    for first in range(0, count, AT_ONCE):
        await asyncio.gather(*(store.add_run(run) for run in runs[first : first + AT_ONCE]))
        fresh = [make_block(run, 0, created=1.0) for run in runs[first : first + AT_ONCE]]
        published = [replace(make_block(run, 1, created=1.0), published=True) for run in runs[first : first + AT_ONCE]]
        await store.add_blocks([*fresh, *published])
        await store.add_delayed([each for block in published for each in slices(block)])


def few(store: Store) -> int:
    """How much more a look may cost since the index is larger: 5,000 blocks that it meets cost SQLite hundreds."""
    return 10 if isinstance(store, SqliteStore) else 0


LOOKS = [unpublished, due, gated, at_broker]


async def test_a_look_costs_the_same_however_many_runs_are_paused(store: Store) -> None:
    free = [await add(store) for _ in range(3)]
    before = [await cost(store, look) for look in LOOKS]
    await add(store, paused=True)
    await add_paused(store, PAUSED)
    for look in LOOKS:
        await look(store)  # may have to mark what it meets first
    after = [await cost(store, look) for look in LOOKS]
    assert [sorted(found) for found, _ in after] == [sorted(free)] * len(LOOKS)
    assert all(now <= then + few(store) for (_, now), (_, then) in zip(after, before, strict=True)), (before, after)


async def test_what_comes_while_a_run_is_paused_waits_with_it(store: Store) -> None:
    run = make_run()
    blocks = [make_block(run, number, created=1.0) for number in range(3)]
    await store.add_blocks(blocks[:1], run=run)
    await store.update_run(run.id, paused=True)
    await store.add_blocks([blocks[1], replace(blocks[2], published=True)])
    await store.add_delayed(slices(blocks[1]))
    assert [await look(store) for look in LOOKS] == [[]] * len(LOOKS)
    await store.update_run(run.id, paused=False)
    assert [await look(store) for look in LOOKS] == [[run.id] * 2, [run.id], [run.id], [run.id]]


@pytest.mark.parametrize("rounds", [20])
async def test_a_run_that_is_paused_and_resumed_at_once_is_what_it_was_last(store: Store, rounds: int) -> None:
    run_id = await add(store)
    for number in range(rounds):
        flags = [bool(number >> bit & 1) for bit in range(4)]
        await asyncio.gather(*(store.update_run(run_id, paused=flag) for flag in flags), *map(unpublished, [store] * 4))
        run = await store.get_run(run_id)
        assert run is not None
        assert await unpublished(store) == [run_id] * (not run.paused)


async def test_marks_that_were_left_behind_are_put_right(store: Store) -> None:
    run_id = await add(store, paused=True)
    await store.recheck_holds()
    assert await unpublished(store) == []
    await store.update_run(run_id, paused=False)
    await store.recheck_holds()
    assert await unpublished(store) == [run_id]


async def test_of_a_cancelled_run_only_what_waits_for_a_time_is_seen(store: Store) -> None:
    run_id = await add(store, state=RunState.CANCELLED)
    assert [await look(store) for look in LOOKS] == [[], [run_id], [run_id], []]
