"""A replica set whose primary is killed: what was accepted is there afterwards, all of it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any, TypeVar

import pytest

from dts.errors import StoreUnavailable
from dts.model import Block, Run, RunState
from dts.store import open_store
from dts.store.mongo import blocks as mongo_blocks
from dts.store.mongo.connection import Collection, MongoConnection
from tests.conformance.store.builders import cancelled, make_block, make_run, succeeded
from tests.services.mongodb import MongoReplicaSet, MongoServer, available

ACTORS = 8

T = TypeVar("T")


@pytest.fixture
def replica_set() -> Iterator[MongoReplicaSet]:
    """Three members, of which a test may kill one."""
    if not available():
        pytest.skip("no mongod on this machine")
    with MongoReplicaSet() as own:
        yield own


async def test_what_is_accepted_during_a_fail_over_is_whole(replica_set: MongoReplicaSet) -> None:
    accepted: list[tuple[Run, Block]] = []
    goes_on = True

    async def add() -> None:
        while goes_on:
            run = make_run(block_size=1)
            block = make_block(run)
            while True:  # as a client repeats what was answered by 503
                try:
                    await store.add_blocks([block], run=run)
                    await store.record([succeeded(block, [0])])
                except StoreUnavailable:
                    continue
                break
            accepted.append((run, block))

    async with open_store(replica_set.url()) as store:
        tasks = [asyncio.create_task(add()) for _ in range(ACTORS)]
        while len(accepted) < 200:
            await asyncio.sleep(0.01)
        replica_set.primary().kill()
        while len(accepted) < 200 + ACTORS:
            await asyncio.sleep(0.01)
        replica_set.primary()
        before = len(accepted)
        while len(accepted) < before + 200:
            await asyncio.sleep(0.01)
        goes_on = False
        await asyncio.gather(*tasks)
        for run, block in accepted:
            assert await store.get_block(block.id) == replace(block, published=False)
            assert await store.get_run(run.id) == run
            outcome = await store.get_outcome(block.id)
            assert outcome is not None
            assert (outcome.succeeded, outcome.parts) == (1, 1)


async def test_blocks_that_a_fail_over_took_back_are_written_again(
    mongo_server: MongoServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    lives = iter(range(100))
    insert_new = mongo_blocks.insert_new

    async def after_a_fail_over(collection: Collection, documents: Sequence[dict[str, Any]]) -> set[int]:
        if collection.name == "outcomes":
            for name in ("blocks", "runs"):
                await collection.database[name].delete_many({})
        return await insert_new(collection, documents)

    monkeypatch.setattr(MongoConnection, "incarnation", lambda connection: next(lives))
    monkeypatch.setattr(mongo_blocks, "insert_new", after_a_fail_over)
    run = make_run()
    blocks = [make_block(run, number) for number in range(3)]
    async with open_store(mongo_server.url("taken_back")) as store:
        assert await store.add_blocks(blocks, run=run) == [True] * 3
        assert [await store.get_block(block.id) for block in blocks] == blocks
        assert await store.get_run(run.id) == run


async def test_another_life_of_a_server_is_told_from_the_one_before() -> None:
    if not available():
        pytest.skip("no mongod on this machine")
    with MongoServer() as server:
        connection = MongoConnection(server.url())
        assert connection.incarnation() != connection.incarnation(), "not connected: nothing can be told"
        connection.open()
        try:
            await connection.ping()
            before = connection.incarnation()
            await connection.ping()
            assert connection.incarnation() == before
            server.restart()
            while True:
                try:
                    await connection.ping()
                except StoreUnavailable:
                    continue
                break
            assert connection.incarnation() != before
        finally:
            connection.close()


async def test_what_is_told_outlives_a_fail_over(replica_set: MongoReplicaSet) -> None:
    run = make_run(block_size=1, state=RunState.CLOSED)
    block = make_block(run)
    async with open_store(replica_set.url()) as store:
        await store.add_blocks([block], run=run)
        primary = replica_set.stop_replication()
        with pytest.raises(StoreUnavailable):  # the primary has it, and no majority
            await store.record([cancelled(block, [0])])
        outcome = await store.get_outcome(block.id)
        assert outcome is not None
        assert outcome.unfinished == 1
        assert await store.get_parts(block.id) == []
        assert await store.uncollected_parts(run.id, max_jobs=10) == []
        assert (await store.run_statistics(run.id)).cancelled == (await store.user_statistics("ann")).cancelled == 0
        assert await store.retrievables("ann", limit=10) == []
        primary.kill()
        replica_set.resume_replication()
        replica_set.primary()
        assert await until_available(lambda: store.record([succeeded(block, [0])])) == [1]
        assert (await store.run_statistics(run.id)).succeeded == 1


async def test_a_nonce_is_used_up_only_when_a_fail_over_cannot_take_it_back(replica_set: MongoReplicaSet) -> None:
    async with open_store(replica_set.url()) as store:
        expires = time.time() + 600
        replica_set.stop_replication()
        with pytest.raises(StoreUnavailable):
            await store.use_nonce("ann", "1", expires)
        replica_set.resume_replication()
        assert await until_available(lambda: store.use_nonce("ann", "2", expires))
        replica_set.primary().kill()
        replica_set.primary()
        assert not await until_available(lambda: store.use_nonce("ann", "2", expires))


async def until_available(call: Callable[[], Awaitable[T]]) -> T:
    """What a call gives once the store answers."""
    while True:
        try:
            return await call()
        except StoreUnavailable:
            continue
