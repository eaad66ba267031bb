"""A MongoDB that is killed, frozen, or not there."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Iterator
from contextlib import suppress

import pytest

from dts.errors import ConfigError, StoreUnavailable
from dts.store import open_store
from tests.conformance.store.actors import actors, line
from tests.conformance.store.builders import make_block, make_run, succeeded
from tests.services.mongodb import MongoServer, available
from tests.services.waiting import until, within


@pytest.fixture
def server() -> Iterator[MongoServer]:
    """A MongoDB that a test may kill."""
    if not available():
        pytest.skip("no mongod on this machine")
    with MongoServer() as own:
        yield own


async def answered(call: Awaitable[object]) -> bool:
    """Whether a call is answered in its time."""
    with suppress(StoreUnavailable):
        await call
        return True
    return False


async def test_a_killed_server_is_unavailable_and_has_everything_after_its_restart(server: MongoServer) -> None:
    run = make_run()
    blocks = [make_block(run, number) for number in range(20)]
    async with open_store(server.url()) as store:
        await store.add_blocks(blocks, run=run)
        await store.record([succeeded(block, [0, 1]) for block in blocks])
        server.kill()
        calls = [
            store.ping(),
            store.get_run(run.id),
            store.add_blocks([make_block(run, 20)]),
            store.record([succeeded(blocks[0], [2])]),
            store.uncollected_parts(run.id, max_jobs=10),
            store.run_statistics(run.id),
            store.collect(run.id, ["0.0"]),
            store.mark_published([blocks[0].id]),
            store.backlog(),
            store.use_nonce("ann", "n", 4e9),
            store.list_runs(),
            store.has_users(),
            store.add_run(make_run()),
        ]
        async with within():
            answers = await asyncio.gather(*calls, return_exceptions=True)
        assert [type(answer) for answer in answers] == [StoreUnavailable] * len(calls)
        server.start()
        await until(lambda: answered(store.ping()), "the store to be back")
        assert await store.list_blocks(run.id) == [await store.get_outcome(block.id) for block in blocks]
        assert await store.record([succeeded(block, [1, 2]) for block in blocks]) == [0b100] * 20
        assert len(await store.uncollected_parts(run.id, max_jobs=1000)) == 40


async def test_what_was_confirmed_survives_the_servers_kill(server: MongoServer) -> None:
    confirmed: list[str] = []
    async with actors(1, "add", server.url(), "ann") as (writer,):
        while len(confirmed) < 60:
            confirmed.append(await line(writer))
        server.kill()
        writer.kill()
        while block := await line(writer):
            confirmed.append(block)
    server.start()
    async with open_store(server.url()) as store:
        for block in confirmed:
            assert await store.get_block(block) is not None
            (part,) = await store.get_parts(block)
            assert (part.jobs, part.body) == (0b11, b"result")


async def test_a_frozen_server_is_unavailable(server: MongoServer) -> None:
    run = make_run()
    async with open_store(server.url()) as patient, open_store(server.url() + "?socketTimeoutMS=500") as store:
        await patient.add_run(run)
        await until(lambda: answered(store.get_run(run.id)), "a connection")
        server.freeze()
        with pytest.raises(StoreUnavailable):
            await store.get_run(run.id)
        with pytest.raises(StoreUnavailable):
            await store.add_blocks([make_block(run)])
        server.thaw()
        await until(lambda: answered(store.get_run(run.id)), "the store to be back")
        assert await patient.get_run(run.id) == run


async def test_a_start_without_a_server_can_be_repeated(server: MongoServer) -> None:
    server.kill()
    store = open_store(server.url() + "?serverSelectionTimeoutMS=200")
    with pytest.raises(StoreUnavailable):
        await store.start()
    server.start()
    await until(lambda: answered(store.start()), "the store to be there")
    await store.close()


@pytest.mark.parametrize("url", ["mongodb://", "mongodb://host:port/x"])
async def test_a_url_that_can_never_work_is_a_configuration_error(url: str) -> None:
    with pytest.raises(ConfigError, match="mongodb://host:27017/database"):
        await open_store(url).start()
