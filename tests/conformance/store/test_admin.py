"""What administrators keep: records with versions, the last administrator, the operation log."""

from __future__ import annotations

import asyncio
import hashlib
import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from itertools import combinations, product
from typing import Any

import pytest
from pymongo import MongoClient

from dts.errors import DuplicateKey, LastAdministrator, LogDamaged
from dts.model import (
    LAST_OPERATION,
    AlertRule,
    DeadLetter,
    Function,
    Limits,
    Namespace,
    Operation,
    Record,
    Route,
    Schedule,
    Silence,
    User,
    VirtualHost,
)
from dts.model.secrets import Secret
from dts.store import Store
from tests.conformance.store.builders import make_block, make_run, succeeded

LIMITS = Limits(unfinished=5, requests_per_second=0.5, retention=3600.0)
RECORDS: list[Record] = [
    User("ann", b"\x00key\xff", frozenset({"user", "developer"}), 1.0, ("text", "*"), "a@b", True, LIMITS, b"old", 2.5),
    Secret("text/TOKEN", "text", b"\xffsealed", "ü", 1.0, 2.0, 3),
    Namespace("text", "ü", LIMITS, 1.5, paused=True, created=2.5, modified=7),
    Route("far", "ü", LIMITS, paused=True),
    AlertRule("r", "log", 1.0, 2.0, 3.0, 4.0, ("a*",), ("gpu",), ("n/*",), 30, "x|y", "", ("a@b",), "critical", False),
    Silence("s", 1.0, 2.0, 3.0, ("a",), ("gpu",), ("n/f",), ("r",), "why"),
    Function(
        *("text/upper", "what", "far", 1.0, 0.25, True, False),
        paused=True,
        priority=7,
        limits=LIMITS,
        modified=5.0,
        version=6,
        soft_timeout=1.0,
        timeout=2.0,
        max_attempts=3,
        retry_on=("OSError",),
        memory_limit=2**33,
        concurrency=4,
        batch=64,
    ),
    VirtualHost("h-1", "10.0.0.1", 2222, "root", b"\xffkey", b"cert", host_key="ssh-ed25519 A", routes=("a", "b")),
    Schedule(
        "s.1", "ann", "text/upper", cron="0 2 * * *", tz="Europe/Berlin", work=b'{"args":["\xc3\xa9"]}', created=1.0
    ),
]


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: type(record).__name__)
async def test_a_record_lives_from_its_first_version_to_its_deletion(store: Store, record: Record) -> None:
    kind = type(record)
    await store.add_record(record)
    assert await store.get_record(kind, record.id) == record
    assert await store.list_records(kind) == [record]
    with pytest.raises(DuplicateKey, match=record.id):
        await store.add_record(record)
    later = replace(record, version=record.version + 1, modified=9.0)
    assert await store.replace_record(later, version=record.version)
    assert not await store.replace_record(record, version=record.version), "it is another version by now"
    assert await store.get_record(kind, record.id) == later
    assert not await store.delete_record(kind, record.id, version=record.version)
    assert await store.delete_record(kind, record.id, version=later.version)
    assert await store.get_record(kind, record.id) is None
    assert not await store.replace_record(later, version=later.version)
    assert not await store.delete_record(kind, record.id, version=later.version)


async def test_of_many_who_change_a_version_one_does(store: Store, open_another: Callable[[], Store]) -> None:
    other = open_another()
    await other.start()
    await store.add_record(Namespace("text"))
    changes = [Namespace("text", f"by {number}", version=2) for number in range(10)]
    done = await asyncio.gather(
        *((store, other)[at % 2].replace_record(change, version=1) for at, change in enumerate(changes))
    )
    assert sorted(done) == [False] * 9 + [True]
    assert await store.get_record(Namespace, "text") == changes[done.index(True)]


async def test_records_are_listed_by_id_page_by_page_and_by_their_fields(store: Store) -> None:
    roles = [{"user"}, {"user", "developer"}, {"operator"}, {"user"}]
    users = [User(f"u{n}", b"k", frozenset(each), disabled=n == 3) for n, each in enumerate(roles)]
    for user in reversed(users):
        await store.add_record(user)

    async def ids(**options: object) -> str:
        return " ".join(user.id for user in await store.list_records(User, **options))  # type: ignore[arg-type]

    assert await ids() == await ids(limit=None) == "u0 u1 u2 u3"
    assert await ids(limit=2) == "u0 u1"
    assert await ids(limit=2, after="u1") == "u2 u3"
    assert await ids(limit=0) == ""
    assert await ids(where={"roles": "user"}) == "u0 u1 u3"
    assert await ids(where={"roles": ("developer", "operator")}) == "u1 u2"
    assert await ids(where={"roles": "user", "disabled": False}) == "u0 u1"
    assert await ids(where={"id": ("u2", "u3", "u9")}, after="u2") == "u3"
    assert await ids(where={"email": '{"$gt": ""}'}) == ""
    assert await ids(where={"version": 1, "disabled": (True, False), "roles": "developer"}) == "u1"
    assert await ids(where={"version": 2}) == await ids(where={"created": 17.5}) == ""
    for name in ("text/upper", "math/add", "math/sub", "maths/x"):
        await store.add_record(Function(name))
    assert [each.name for each in await store.list_records(Function, where={"namespace": "math"})] == [
        "math/add",
        "math/sub",
    ]


async def test_the_last_administrator_stays(store: Store) -> None:
    boss = User("boss", b"k", frozenset({"administrator"}))
    await store.add_record(boss)
    await store.add_record(User("gone", b"k", frozenset({"administrator"}), disabled=True))
    for lesser in (replace(boss, roles=frozenset({"user"})), replace(boss, disabled=True)):
        with pytest.raises(LastAdministrator, match=r"last administrator .* Give another user"):
            await store.replace_record(replace(lesser, version=2), version=1)
    with pytest.raises(LastAdministrator):
        await store.delete_record(User, "boss", version=1)
    assert await store.get_user("boss") == boss
    assert await store.replace_record(replace(boss, email="a@b", version=2), version=1), "other changes are free"
    await store.add_record(User("next", b"k", frozenset({"administrator"})))
    assert await store.delete_record(User, "boss", version=2)
    with pytest.raises(LastAdministrator):
        await store.delete_record(User, "next", version=1)


async def test_administrators_who_leave_at_the_same_time_leave_one(
    store: Store, open_another: Callable[[], Store]
) -> None:
    other = open_another()
    await other.start()
    users = [User(f"a{number}", b"k", frozenset({"administrator"})) for number in range(6)]
    for user in users:
        await store.add_record(user)

    async def leave(number: int) -> bool:
        via, user = (store, other)[number % 2], users[number]
        if number % 3:
            return await via.delete_record(User, user.id, version=1)
        return await via.replace_record(replace(user, roles=frozenset({"user"}), version=2), version=1)

    results = await asyncio.gather(*map(leave, range(6)), return_exceptions=True)
    assert sum(isinstance(result, LastAdministrator) for result in results) == 1, results
    assert results.count(True) == 5
    assert sum(user.is_administrator for user in await store.list_records(User)) == 1


def an_operation(number: int = 0, **changes: object) -> Operation:
    operation = Operation(1.5, "ann", "127.0.0.1", "users.update", f"u{number}", {"a.$b": ["ü", None, 1]}, "done")
    return replace(operation, **changes)  # type: ignore[arg-type]


def seal(operation: Operation) -> str:
    return hashlib.sha256(operation.canonical()).hexdigest()


async def test_operations_make_one_chain_whoever_appends(store: Store, open_another: Callable[[], Store]) -> None:
    other = open_another()
    await other.start()
    assert await store.operations_head() == (0, "")
    appended = await asyncio.gather(
        *((store, other)[number % 2].append_operation(an_operation(number), seal) for number in range(30))
    )
    log = await store.list_operations(newest_first=False)
    assert sorted(appended, key=lambda each: each.seq) == log
    assert [entry.seq for entry in log] == list(range(1, 31))
    assert [entry.previous for entry in log] == ["", *(entry.hash for entry in log[:-1])]
    assert all(seal(entry) == entry.hash for entry in log)
    assert await other.operations_head() == (30, log[-1].hash)


@pytest.mark.parametrize("head", [None, 1, 2, 3])
async def test_the_log_goes_on_at_its_end_wherever_the_head_is(store: Store, url: str, head: int | None) -> None:
    """At 2 an appender died between its two writes; anything else was not an accident."""
    log = [await store.append_operation(an_operation(number), seal) for number in range(3)]
    put_head(url, None if head is None else log[head - 1])
    fourth = await store.append_operation(an_operation(3), seal)
    assert (fourth.seq, fourth.previous) == (4, log[2].hash)
    assert await store.operations_head() == (4, fourth.hash)
    assert [entry.seq for entry in await store.list_operations()] == [4, 3, 2, 1]


def put_head(url: str, entry: Operation | None) -> None:
    """Note another entry as the last one, or none, behind the store's back."""
    if url.startswith("mongodb"):
        with MongoClient[dict[str, Any]](url) as client:
            heads = client.get_default_database()["operations_head"]
            heads.delete_many({})
            if entry is not None:
                heads.insert_one({"_id": "head", "seq": entry.seq, "hash": entry.hash})
        return
    with closing(sqlite3.connect(url.removeprefix("sqlite:///"), timeout=10)) as db, db:
        db.execute("DELETE FROM operations_head")
        if entry is not None:
            db.execute("INSERT INTO operations_head (one, seq, hash) VALUES (1, ?, ?)", (entry.seq, entry.hash))


async def test_operations_are_listed_from_either_end_and_by_their_fields(store: Store) -> None:
    log = [
        await store.append_operation(an_operation(number, operator="bob" if number % 2 else "ann", begun=1), seal)
        for number in range(6)
    ]
    assert await store.list_operations() == log[::-1]
    assert await store.list_operations(limit=2, after=5) == log[3:1:-1]
    assert await store.list_operations(limit=2, after=2, newest_first=False) == log[2:4]
    assert await store.list_operations(where={"operator": "bob"}, newest_first=False) == log[1::2]
    assert await store.list_operations(where={"doc_id": "u3", "operator": "bob"}) == [log[3]]
    assert await store.list_operations(where={"outcome": "begun"}) == []


async def test_every_choice_of_filters_finds_what_matches_all_of_them(store: Store) -> None:
    values = {
        "doc_id": ("u1", "=\0", "\ud800"),
        "op_type": ("users.create", "users.update"),
        "operator": ("ann", "bob"),
        "outcome": ("begun", "done"),
        "address": ("10.0.0.1", "::1"),
    }
    log = [
        await store.append_operation(an_operation(**dict(zip(values, chosen, strict=True))), seal)
        for chosen in product(*values.values())
    ]
    assert len(log) == 48
    for count in range(1, 6):
        for fields in combinations(values, count):
            where = {field: values[field][-1] for field in fields}
            expected = [each.seq for each in log if all(getattr(each, name) == text for name, text in where.items())]
            found = await store.list_operations(where=where, newest_first=False)
            assert [each.seq for each in found] == expected
            after = await store.list_operations(where=where, after=expected[-1])
            assert [each.seq for each in after] == expected[-2::-1]
    assert await store.list_operations(where={"operator": "ann", "outcome": "failed"}) == []


async def test_unfinished_jobs_are_counted_by_user_function_and_namespace(store: Store) -> None:
    assert await store.count_unfinished() == 0
    for user in ("ann", "bob"):
        run = make_run(user)
        blocks = [make_block(run, 0), replace(make_block(run, 1, count=3), function="texts/other")]
        await store.add_blocks(blocks, run=run)
        await store.record([succeeded(blocks[0], [0, 1])])
    assert await store.count_unfinished() == 18
    assert await store.count_unfinished(user="ann") == 9
    assert await store.count_unfinished(function="text/upper") == 12
    assert await store.count_unfinished(namespace="text") == 12
    assert await store.count_unfinished(namespace="texts", user="ann") == 3
    await store.record([succeeded(make_block(run, 0), range(8)), succeeded(make_block(run, 1, count=3), range(3))])
    assert await store.count_unfinished(user="bob") == 0
    assert await store.count_unfinished(user="nobody") == 0


async def test_dead_letters_are_deleted_by_id(store: Store) -> None:
    await store.add_dead_letters([DeadLetter(f"d{number}", "q", "r", b"x", "") for number in range(3)])
    await store.delete_dead_letters(["d0", "d2", "unknown", "\x00"])
    assert [letter.id for letter in await store.list_dead_letters()] == ["d1"]


async def test_a_run_is_deleted_with_all_that_is_its_own_in_steps(store: Store) -> None:
    run, other = make_run(), make_run()
    large = 9 * 1024 * 1024  # beside its document in MongoDB
    blocks = [make_block(run, number, body=b"x" * (large if number == 1 else 10)) for number in range(5)]
    for of, its_blocks in ((run, blocks), (other, [make_block(other)])):
        await store.add_blocks(its_blocks, run=of)
        await store.record([succeeded(block, range(8), body=b"y" * 50_000) for block in its_blocks])
    assert not await store.delete_run(run.id, blocks=2)
    assert (await store.run_statistics(run.id)).total == 24
    while not await store.delete_run(run.id, blocks=2):
        pass
    assert await store.get_run(run.id) is None
    assert await store.list_blocks(run.id) == []
    assert await store.uncollected_parts(run.id, max_jobs=100) == []
    for block in blocks:
        assert await store.get_block(block.id) is None
        assert await store.get_parts(block.id) == []
    assert await store.delete_run(run.id, blocks=2), "again, as after a crash"
    assert await store.get_run(other.id) == other
    assert len(await store.get_parts(f"{other.id}-0")) == 1


async def test_an_operation_that_somebody_made_nonsense_of_is_read_all_the_same(store: Store, url: str) -> None:
    entry = await store.append_operation(an_operation(), seal)
    if url.startswith("mongodb"):
        with MongoClient(url) as client:
            client.get_default_database()["operations"].update_one(
                {}, {"$set": {"operator": {"$gt": 1}, "timestamp": "x", "more": 1}, "$unset": {"ops": 1, "hash": 1}}
            )
    else:
        with closing(sqlite3.connect(url.removeprefix("sqlite:///"))) as db, db:
            db.execute("UPDATE operations SET operator = '{}', timestamp = -1, ops = '[', hash = ''")
    [found] = await store.list_operations()
    assert (found.seq, found.hash) == (1, "")
    assert seal(found) != entry.hash


async def kept(store: Store) -> list[tuple[int, bool, str]]:
    """What is kept as the log: the number, whether it is an entry, and what is wrong with it."""
    return [(each.seq, each.entry is not None, each.damage) async for each in store.kept_operations()]


async def test_what_is_no_entry_of_the_log_is_told_and_in_nobodys_way(store: Store, url: str) -> None:
    log = [await store.append_operation(an_operation(number), seal) for number in range(3)]
    for number in (-5, 0, LAST_OPERATION + 1):
        put_copy(url, log[0], number)
    assert await store.list_operations() == log[::-1]
    assert await store.list_operations(newest_first=False, limit=1) == log[:1]
    assert await store.list_operations(where={"doc_id": "u0"}) == log[:1]
    log.append(await store.append_operation(an_operation(3), seal))
    assert (log[3].seq, log[3].previous) == (4, log[2].hash)
    found = await kept(store)
    assert found[:4] == [(entry.seq, True, "") for entry in log]
    assert sorted(seq for seq, _, _ in found[4:]) == [-5, 0, LAST_OPERATION + 1]
    assert not any(is_entry for _, is_entry, _ in found[4:])
    assert all(damage for _, _, damage in found[4:])


async def test_nothing_follows_an_entry_of_the_greatest_number(store: Store, url: str) -> None:
    entry = await store.append_operation(an_operation(), seal)
    put_copy(url, entry, LAST_OPERATION)
    with pytest.raises(LogDamaged, match="restore the store"):
        await store.append_operation(an_operation(1), seal)
    assert [each.seq for each in await store.list_operations()] == [LAST_OPERATION, 1]


async def test_a_long_log_is_kept_in_order(store: Store) -> None:
    for number in range(450):
        await store.append_operation(an_operation(number), seal)
    assert await kept(store) == [(seq, True, "") for seq in range(1, 451)]


def put_copy(url: str, entry: Operation, number: int) -> None:
    """Put a copy of an entry under another number, behind the store's back."""
    if url.startswith("mongodb"):
        with MongoClient[dict[str, Any]](url) as client:
            operations = client.get_default_database()["operations"]
            operations.insert_one({**(operations.find_one({"_id": entry.seq}) or {}), "_id": number})
        return
    columns = "timestamp, operator, address, op_type, doc_id, ops, outcome, begun, previous, hash"
    copy = f"INSERT INTO operations (seq, {columns}) SELECT ?, {columns} FROM operations WHERE seq = ?"
    with closing(sqlite3.connect(url.removeprefix("sqlite:///"), timeout=10)) as db, db:
        db.execute(copy, (number, entry.seq))
