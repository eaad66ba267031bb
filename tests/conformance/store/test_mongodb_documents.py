"""What crashes and races leave in a MongoDB, seen past the store."""

from __future__ import annotations

import asyncio
import math
import uuid
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from datetime import datetime
from typing import Any

import pytest
from bson import MinKey, ObjectId
from pymongo import MongoClient
from pymongo.database import Database

from dts.errors import BlockConflict
from dts.model import DeadLetter, DelayedSlice, Operation, RunState
from dts.store import Store, open_store
from dts.store.contract.gate import Release
from tests.conformance.store.builders import backlog_of, failed, make_block, make_run, succeeded
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
    assert await store.backlog() == []
    with pytest.raises(BlockConflict):
        await store.add_blocks([make_block(run, body=b"other")])
    assert await store.add_blocks([block], run=run) == [True]
    assert await store.get_block(block.id) == block
    assert [each.outcome.block for each in await backlog_of(store, run.id, limit=1)] == [block.id]


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


async def test_what_slices_of_an_earlier_version_planned_is_known_before_and_after_they_fire(
    store: Store, documents: Documents
) -> None:
    run = make_run()
    block = make_block(run)
    await store.add_blocks([block], run=run)
    waits = DelayedSlice("waits", block.id, run.id, run.user, run.function, 1.0, 0b110, attempt=2)
    gated = replace(waits, id="gated", jobs=0b11000, attempt=3, gated=True)
    await store.add_delayed([waits, gated])
    documents["delayed"].update_many({}, {"$unset": {"made": "", "made_offset": ""}})
    planned = {block.id: {2: 0b110, 3: 0b11000}}
    assert await store.planned_attempts({block.id: 0}) == planned
    assert await store.release_gated([Release(gated, 0b01000, 0b10000)]) == [True]
    assert await store.planned_attempts({block.id: 0}) == planned, "what was let go is not forgotten"
    await store.finish_delayed([waits.id, gated.id], now=2.0)
    assert await store.planned_attempts({block.id: 0}) == planned


async def test_what_was_planned_is_found_by_an_index_but_also_without_it(store: Store, documents: Documents) -> None:
    run = make_run()
    blocks = [make_block(run, number) for number in range(3)]
    await store.add_blocks(blocks, run=run)
    await store.add_delayed(
        [
            DelayedSlice(f"{each.id}:{attempt}", each.id, run.id, run.user, run.function, 1.0, 0b10, attempt=attempt)
            for each in blocks
            for attempt in range(1, 50)
        ]
    )
    after = {block.id: 48 - position for position, block in enumerate(blocks)}
    documents.command("profile", 2)
    planned = await store.planned_attempts(after)
    documents.command("profile", 0)
    [told] = documents["system.profile"].find({"op": "query", "ns": f"{documents.name}.delayed"})
    assert told["docsExamined"] == 6
    assert {len(of_block) for of_block in planned.values()} == {1, 2, 3}
    documents["delayed"].drop_index("made")  # as an operator may, who makes it anew
    assert await store.planned_attempts(after) == planned


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


def entry_of(number: int) -> Operation:
    return Operation(1.5, "ann", "::1", "users.update", f"u{number}", {}, "done")


async def log_of_three(store: Store) -> list[Operation]:
    return [await store.append_operation(entry_of(number), lambda entry: f"h{entry.seq}") for number in range(3)]


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"$set": {"which": []}}, "lists with filters"),
        ({"$pop": {"which": 1}}, "lists with filters"),
        ({"$unset": {"which": 1}}, "which"),
        ({"$set": {"which": "x"}}, "which"),
        ({"$set": {"more": 1}}, "fields that no entry has: more"),
        ({"$set": {"operator": 5}}, "operator"),
        ({"$unset": {"ops": 1}}, "ops"),
        ({"$set": {"timestamp": "now"}}, "timestamp"),
        ({"$set": {"doc_id": "u7"}}, "lists with filters"),
    ],
    ids=str,
)
async def test_what_no_hash_covers_of_an_entry_is_told(
    store: Store, documents: Documents, change: dict[str, Any], problem: str
) -> None:
    await log_of_three(store)
    documents["operations"].update_one({"_id": 2}, change)
    first, second, third = [each async for each in store.kept_operations()]
    assert (first.damage, third.damage) == ("", "")
    assert second.entry is not None
    assert problem in second.damage


@pytest.mark.parametrize(
    "number", ["evil", 0.5, 2.5, math.nan, math.inf, None, True, b"x", {"a": 1}, ObjectId(), datetime.now(), MinKey()]
)
async def test_a_document_without_the_number_of_an_entry_is_told_and_in_nobodys_way(
    store: Store, documents: Documents, number: object
) -> None:
    log = await log_of_three(store)
    documents["operations"].insert_one({**(documents["operations"].find_one({"_id": 3}) or {}), "_id": number})
    assert await store.list_operations() == log[::-1]
    log.append(await store.append_operation(entry_of(3), lambda entry: "h"))
    assert await store.list_operations(newest_first=False) == log
    found = [each async for each in store.kept_operations()]
    assert [each.entry for each in found if each.entry is not None] == log
    [stray] = [each for each in found if each.entry is None]
    assert "none of them" in stray.damage


async def test_numbers_of_64_bits_are_plain_numbers(store: Store, documents: Documents) -> None:
    await log_of_three(store)
    documents["operations"].insert_one(
        {**(documents["operations"].find_one({"_id": 3}) or {}), "_id": 10**12, "begun": 10**11}
    )
    [entry] = await store.list_operations(limit=1)
    assert (type(entry.seq), type(entry.begun)) == (int, int)
    assert (await store.append_operation(entry_of(3), lambda entry: "h")).seq == 10**12 + 1


@pytest.mark.parametrize(
    "head", [{"seq": "x"}, {"seq": 2.0}, {"seq": 10**18}, {"seq": None}, {"hash": 5}, {"seq": -1}], ids=str
)
async def test_a_note_of_the_last_entry_that_cannot_be_read_is_none_and_is_made_anew(
    store: Store, documents: Documents, head: dict[str, Any]
) -> None:
    log = await log_of_three(store)
    documents["operations_head"].update_one({"_id": "head"}, {"$set": head})
    assert await store.operations_head() == (0, "")
    entry = await store.append_operation(entry_of(3), lambda entry: "h4")
    assert (entry.seq, entry.previous) == (4, log[2].hash)
    assert await store.operations_head() == (4, "h4")


async def test_runs_that_an_earlier_version_cancelled_are_found_and_swept(store: Store, documents: Documents) -> None:
    old, new = make_run(created=10.0, state=RunState.CANCELLED), make_run(created=5.0)
    for run in (old, new):
        await store.add_run(run)
    await store.update_run(new.id, state=RunState.CANCELLED, now=20.0)
    assert documents["runs"].find_one({"_id": old.id, "cancel_time": {"$exists": False}})
    assert await store.cancelled_runs(7.0, limit=9) == [new.id, old.id]
    assert await store.cancelled_runs(15.0, limit=9) == [new.id]
    assert sorted(await store.unswept_runs(due_before=0.0, limit=9)) == sorted([old.id, new.id])
    await store.note_swept([old.id])
    assert await store.unswept_runs(due_before=0.0, limit=9) == [new.id]
    found = await store.update_run(old.id, state=RunState.CANCELLED)
    assert found is not None
    assert found == replace(old, finished=found.finished)
    assert await store.cancelled_runs(15.0, limit=9) == [new.id]


async def test_runs_are_cancelled_by_the_clock_of_the_store_whatever_time_their_server_has(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, many = make_run(created=1.0), make_run(created=1.0)
    for run in (one, many):
        await store.add_run(run)
    begun = store.now()
    with monkeypatch.context() as patched:
        patched.setattr("time.time", lambda: 5.0)
        await store.update_run(one.id, state=RunState.CANCELLED)
        await store.cancel_runs([many.id])
    assert sorted(await store.cancelled_runs(begun - 1.0, limit=9)) == sorted([one.id, many.id])
