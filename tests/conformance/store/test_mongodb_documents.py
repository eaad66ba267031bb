"""What crashes and races leave in a MongoDB, seen past the store."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from pymongo import MongoClient
from pymongo.database import Database

from dts.errors import BlockConflict
from dts.model import DeadLetter, Operation
from dts.store import Store, open_store
from tests.conformance.store.builders import failed, make_block, make_run, succeeded
from tests.services.mongodb import MongoServer

Documents = Database[dict[str, Any]]


@pytest.fixture
def url(mongo_server: MongoServer) -> str:
    """The URL of an empty MongoDB store."""
    return mongo_server.url(f"test_{uuid.uuid4().hex}")


@pytest.fixture
async def rival(url: str) -> AsyncIterator[Store]:
    """Another Store object on the same data."""
    async with open_store(url) as started:
        yield started


@pytest.fixture
def documents(url: str) -> Iterator[Documents]:
    """The same database, not seen through the store."""
    client: MongoClient[dict[str, Any]]
    with MongoClient(url) as client:
        yield client.get_default_database()


async def test_a_block_whose_acceptance_was_cut_off_is_completed_by_its_repeat(
    store: Store, documents: Documents
) -> None:
    run = make_run()
    block = make_block(run, created=1.0)
    await store.add_blocks([block], run=run)
    documents["outcomes"].delete_one({"_id": block.id})  # as if the server had died before it wrote this
    assert await store.get_block(block.id) is None
    assert await store.record([succeeded(block, [0])]) == [None]
    assert await store.claim_unpublished(older_than=2.0, limit=1, lease=1) == []
    with pytest.raises(BlockConflict):
        await store.add_blocks([make_block(run, body=b"other")])
    assert await store.add_blocks([block], run=run) == [True]
    assert await store.get_block(block.id) == block
    assert await store.claim_unpublished(older_than=2.0, limit=1, lease=1) == [block]


async def test_bodies_beside_that_came_too_late_or_again_are_removed(
    store: Store, rival: Store, documents: Documents
) -> None:
    run = make_run(block_size=40)
    block = make_block(run, body=b"x" * 9_000_000)
    for _ in range(3):
        await store.add_blocks([block], run=run)
    assert documents["bodies"].count_documents({}) == 1
    for index in range(40):
        results = [kind(block, [index], b"r" * 5000) for kind in (succeeded, failed)]
        await asyncio.gather(store.record(results[:1]), rival.record(results[1:]))
    assert len(await store.get_parts(block.id)) == 40
    assert documents["bodies"].count_documents({}) == 1 + 40


async def test_a_store_whose_memory_of_an_outcome_is_stale_finds_out(store: Store, rival: Store) -> None:
    run = make_run()
    blocks = [make_block(run, number) for number in range(3)]
    await store.add_blocks(blocks, run=run)
    for index in range(8):
        one, other = (store, rival) if index % 2 else (rival, store)
        answers = await one.record([succeeded(block, [index]) for block in blocks[index % 3 :]])
        assert answers == [1 << index] * len(blocks[index % 3 :])
        assert await other.record([failed(block, [index]) for block in blocks]) == [
            0 if block in blocks[index % 3 :] else 1 << index for block in blocks
        ]


async def test_a_batch_is_closed_when_its_last_part_is_collected(store: Store, documents: Documents) -> None:
    run = make_run()
    block = make_block(run)
    await store.add_blocks([block], run=run)
    await store.record([succeeded(block, [0]), succeeded(block, [1])])
    await store.record([succeeded(block, [2])])

    def closed() -> list[int]:
        document = documents["outcomes"].find_one({"_id": block.id})
        assert document is not None
        indices: list[int] = document["closed"]
        return sorted(indices)

    assert await store.collect(run.id, ["0.1"]) == 1
    assert closed() == []
    assert await store.collect(run.id, ["0.2"]) == 1
    assert closed() == [1]
    assert await store.collect(run.id, ["0.0"]) == 1
    assert closed() == [0, 1]


async def test_a_log_of_an_earlier_version_is_found_by_its_fields(url: str, store: Store, documents: Documents) -> None:
    for operator in ("ann", "bob", "ann"):
        entry = Operation(1.5, operator, "::1", "users.update", "u1", {}, "done")
        await store.append_operation(entry, lambda each: str(each.seq))
    documents["operations"].update_many({"_id": {"$lte": 2}}, {"$unset": {"which": ""}})
    async with open_store(url) as later:
        found = await later.list_operations(where={"operator": "ann", "outcome": "done"})
    assert [each.seq for each in found] == [3, 1]


async def test_runs_of_an_earlier_version_are_listed(url: str, documents: Documents) -> None:
    run = make_run()
    async with open_store(url) as store:
        await store.add_run(run)
    documents["runs"].update_one({"_id": run.id}, {"$unset": {"single": ""}})
    for name in ("of_files", "of_files_by_user"):
        documents["runs"].drop_index(name)
    async with open_store(url) as store:
        assert await store.list_runs(single=False) == [run]
        assert await store.list_runs(run.user, single=False) == [run]


async def test_the_bodies_of_dead_letters_go_with_them(store: Store, documents: Documents) -> None:
    run, body = make_run(), b"x" * 17 * 1024 * 1024
    await store.add_run(run)
    letters = [DeadLetter(name, "q", "r", body, "", {"run": run.id}, died) for died, name in enumerate("abc")]
    await store.add_dead_letters(letters)
    assert documents["bodies"].count_documents({}) >= 3
    assert await store.forget_dead_letters(before=1.0, keep=10, limit=10) == 1
    await store.delete_dead_letters(["b"])
    assert await store.list_dead_letters() == letters[2:]
    assert await store.delete_run(run.id, blocks=1)
    assert documents["bodies"].count_documents({}) == 0
