"""Sums that are kept in MongoDB, with processes that die at every step and others that come late: always exact."""

from __future__ import annotations

import asyncio
import random
import uuid
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

import pytest

from dts.model import Block, Run, Statistics
from dts.store.mongo import tallies
from dts.store.mongo.store import MongoStore
from dts.store.mongo.tallies import RUN, USER, Tallies
from tests.conformance.store.builders import at_work, cancelled, failed, make_block, make_run, succeeded
from tests.services.mongodb import MongoServer


class Dead(Exception):
    """Where a process was killed."""


class Dying(Tallies):
    """A process that dies after it has put a chunk into a tally, with a part of it noted in the outcomes."""

    async def _complete(self, kind: str, tally: dict[str, Any]) -> None:
        blocks = tally["pending"]["blocks"]
        marks = [tallies._mark(kind, block, says, tally["seq"] + 1) for block, *says in blocks]
        if some := marks[: random.randrange(len(marks) + 1)]:
            await self._connection.collection("outcomes").bulk_write(some)
        raise Dead


@pytest.fixture
async def store(mongo_server: MongoServer, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[MongoStore]:
    for name, value in (("MOST_LOOSE", 6), ("_CHUNK", 4)):
        monkeypatch.setattr(tallies, name, value)
    async with MongoStore(mongo_server.url(f"tallies_{uuid.uuid4().hex}")) as store:
        yield store


async def truth(store: MongoStore, **of: str) -> Statistics:
    """What all outcomes say, added up."""
    counts: Counter[str] = Counter()
    async for outcome in store._connection.collection("outcomes").find(of):
        ended = {state: outcome[state] for state in ("succeeded", "failed", "cancelled")}
        left = outcome["count"] - sum(ended.values()) - outcome["at_work"]
        counts.update(ended, total=outcome["count"], running=outcome["at_work"])
        counts["accepted"] += 0 if outcome["published"] else max(0, left)
    return Statistics(**counts)


async def check(store: MongoStore, runs: list[Run]) -> None:
    assert await store.user_statistics("ann") == await truth(store, user="ann")
    for run in runs:
        assert await store.run_statistics(run.id) == await truth(store, run=run.id)


async def change(store: MongoStore, block: Block) -> None:
    """Something that happens to a block."""
    jobs = random.sample(range(block.count), 3)
    kind = random.choice((succeeded, failed, cancelled, at_work, None))
    if kind is None:
        await store.mark_published([block.id])
    else:
        await store.record([kind(block, jobs)])


async def kept(store: MongoStore) -> list[dict[str, Any]]:
    return [tally async for tally in store._connection.collection("tallies").find()]


@pytest.mark.parametrize("seed", range(6))
async def test_counts_are_exact_whoever_dies_and_whoever_comes_late(store: MongoStore, seed: int) -> None:
    random.seed(seed)
    runs = [make_run() for _ in range(2)]
    blocks: list[Block] = []
    dying, late = Dying(store._connection), []
    for step in range(60):
        run = random.choice(runs)
        if step % 3 == 0:
            blocks.append(make_block(run, sum(block.run == run.id for block in blocks)))
            await store.add_blocks(blocks[-1:], run=run)
        await change(store, random.choice(blocks))
        if step % 4 == 0:
            kind, of = random.choice([(USER, "ann"), (RUN, run.id)])
            with suppress(Dead):
                await dying._take_chunk(kind, of, {})
        if step % 5 == 0:
            late += [tally for tally in await kept(store) if tally["pending"]]
        if step % 7 == 0:
            await store.keep_counts()
        if late and step % 6 == 0:  # a process that was stopped for long goes on with what it had read
            tally = random.choice(late)
            await store._tallies._complete(tally["_id"].partition(" ")[0], tally)
        await check(store, runs)


async def test_counts_are_exact_while_all_goes_on_at_once(store: MongoStore) -> None:
    run = make_run()
    blocks = [make_block(run, number) for number in range(30)]
    await store.add_blocks(blocks, run=run)
    others = [Tallies(store._connection) for _ in range(3)]
    await asyncio.gather(
        *(change(store, random.choice(blocks)) for _ in range(60)),
        *(other.take_over() for other in others for _ in range(4)),
    )
    await check(store, [run])
    while await store.keep_counts():
        await check(store, [run])
    await check(store, [run])
    [tally] = [tally for tally in await kept(store) if tally["_id"] == "user ann"]
    assert tally["counts"][0] > 0
    assert await loose(store) <= tallies.MOST_LOOSE


async def test_what_a_reader_sees_of_a_chunk_that_is_taken_over_counts_once(store: MongoStore) -> None:
    run = make_run()
    await store.add_blocks([make_block(run, number) for number in range(12)], run=run)

    async def read() -> None:
        for _ in range(20):
            assert (await store.user_statistics("ann")).total == (await store.run_statistics(run.id)).total == 96

    await asyncio.gather(read(), read(), *(store._tallies.take_over() for _ in range(3)))


async def test_deleted_blocks_count_no_more(store: MongoStore) -> None:
    runs = [make_run() for _ in range(3)]
    for run in runs:
        await store.add_blocks([make_block(run, number) for number in range(8)], run=run)
    await store.keep_counts()
    with pytest.raises(Dead):
        await Dying(store._connection)._take_chunk(USER, "ann", {})
    while not await store.delete_run(runs[0].id, blocks=3):
        await check(store, runs[1:])
    await check(store, runs[1:])
    assert await store.run_statistics(runs[0].id) == Statistics()
    assert (await store.user_statistics("ann")).total == 2 * 64


async def test_small_users_and_small_runs_have_no_tally(store: MongoStore) -> None:
    small, big = make_run("bob"), make_run()
    await store.add_blocks([make_block(small, number) for number in range(tallies.MOST_LOOSE)], run=small)
    await store.keep_counts()
    assert await kept(store) == []
    first = tallies.BIG_RUN
    await store.add_blocks([make_block(big, number) for number in range(first, first + 7)], run=big)
    await store.keep_counts()
    assert sorted(tally["_id"] for tally in await kept(store)) == [f"run {big.id}", "user ann"]
    await check(store, [small, big])


async def loose(store: MongoStore) -> int:
    found: int = await store._connection.collection("outcomes").count_documents({"loose.user": True})
    return found
