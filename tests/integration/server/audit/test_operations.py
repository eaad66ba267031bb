"""The operation log: every write is on it, before and after; whoever tampers with it is found out."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from typing import Any

import msgspec
import pytest

from dts.errors import StoreUnavailable
from dts.management import AdminClient
from dts.management.api.chain import check_chain
from dts.management.doctor.remote import Verdict, check_from_inside
from dts.model import LAST_OPERATION, Operation, Seal, VirtualHost
from dts.server.app import Server
from dts.store import Store
from dts.store.sqlite.store import SqliteStore
from tests.integration.conftest import Api, Site


async def write_some(api: Api) -> None:
    """Four writes: eight entries."""
    await api.call("POST", "/admin/namespaces/", {"id": "lab"}, status=201)
    await api.call("PATCH", "/admin/namespaces/lab", {"description": "x", "limits": {"unfinished": 5}})
    await api.refused("POST", "/admin/namespaces/", {"id": "lab"}, status=409, code="already_exists")
    await api.call("DELETE", "/admin/namespaces/lab")


async def test_every_write_is_on_record_before_it_happens_and_after(site: Site) -> None:
    api = site.api()
    await write_some(api)
    log = await api.call("GET", "/admin/operations/?order=oldest")
    assert [(entry["op_type"], entry["outcome"], entry["begun"]) for entry in log] == [
        ("namespaces.create", "begun", None),
        ("namespaces.create", "done", 1),
        ("namespaces.update", "begun", None),
        ("namespaces.update", "done", 3),
        ("namespaces.create", "begun", None),
        ("namespaces.create", "already_exists", 5),
        ("namespaces.delete", "begun", None),
        ("namespaces.delete", "done", 7),
    ]
    assert {entry["operator"] for entry in log} == {"admin"}
    assert {entry["doc_id"] for entry in log} == {"lab"}
    assert {entry["address"] for entry in log} == {"127.0.0.1"}
    assert log[0]["ops"] == {}, "what is at its default is not listed"
    assert (
        log[2]["ops"]
        == log[3]["ops"]
        == {
            "description": {"from": "", "to": "x"},
            "limits": {"from": {}, "to": {"unfinished": 5}},
        }
    )
    assert log[6]["ops"] == {"description": {"from": "x"}, "limits": {"from": {"unfinished": 5}}}
    assert await api.call("GET", "/admin/operations/3") == log[2]
    assert await api.call("GET", "/admin/operations/verify") == {
        "valid": True,
        "entries": 8,
        "last": 8,
        "anchor": 8,
        "faults": [],
    }


async def test_what_was_destroyed_can_be_told_from_the_log(site: Site) -> None:
    api = site.api()
    await api.call("POST", "/admin/namespaces/", {"id": "lab"}, status=201)
    await api.call("POST", "/admin/functions/", {"id": "lab/one", "timeout": 5}, status=201)
    await api.call("POST", "/admin/functions/", {"id": "lab/two"}, status=201)
    await api.refused("DELETE", "/admin/namespaces/lab", status=409, code="in_use")
    await api.call("DELETE", "/admin/namespaces/lab?force=true")
    log = await api.call("GET", "/admin/operations/?order=oldest&after=8")
    assert [(entry["op_type"], entry["doc_id"], entry["outcome"], entry["ops"]) for entry in log] == [
        ("namespaces.delete", "lab", "begun", {"force": True}),
        ("functions.delete", "lab/one", "begun", {"force": True, "timeout": {"from": 5.0}}),
        ("functions.delete", "lab/one", "done", {"force": True, "timeout": {"from": 5.0}}),
        ("functions.delete", "lab/two", "begun", {"force": True}),
        ("functions.delete", "lab/two", "done", {"force": True}),
        ("namespaces.delete", "lab", "done", {"force": True}),
    ]
    assert (await api.call("GET", "/admin/operations/verify"))["valid"]


async def test_an_update_tells_what_was_before_and_no_secret(site: Site) -> None:
    api = site.api()
    await api.call("POST", "/admin/users/", {"id": "bob", "secret": "correct horse", "email": "a@b"}, status=201)
    changes = {"secret": "battery staple", "grace": 5, "email": "c@d", "disabled": False}
    await api.call("PATCH", "/admin/users/bob", changes)
    await api.call("PATCH", "/admin/users/bob", {"limits": {"running": 3}})
    await api.call("PATCH", "/admin/users/bob", {"limits": {"running": None, "unfinished": 4}, "email": None})
    await api.call("DELETE", "/admin/users/bob")
    log = await api.call("GET", "/admin/operations/?order=oldest&outcome=done")
    assert [entry["ops"] for entry in log] == [
        {"secret": "***", "email": "a@b"},
        {"secret": "***", "grace": 5.0, "email": {"from": "a@b", "to": "c@d"}},
        {"limits": {"from": {}, "to": {"running": 3}}},
        {"limits": {"from": {"running": 3}, "to": {"unfinished": 4}}, "email": {"from": "c@d", "to": ""}},
        {"limits": {"from": {"unfinished": 4}}},
    ]


async def test_the_log_is_read_in_pages_from_either_end(site: Site) -> None:
    api = site.api()
    await write_some(api)

    async def seqs(query: str) -> list[int]:
        return [entry["seq"] for entry in await api.call("GET", f"/admin/operations/?{query}")]

    assert await seqs("limit=3") == [8, 7, 6]
    assert await seqs("limit=3&after=6") == [5, 4, 3]
    assert await seqs("limit=3&order=oldest&after=2") == [3, 4, 5]
    assert await seqs("outcome=done&op_type=namespaces.delete") == [8]
    assert await seqs("operator=nobody") == []
    for query in ("after=x", "order=sideways", "ops=x", "after=-1"):
        await api.refused("GET", f"/admin/operations/?{query}", status=400, code="argument_invalid")
    await api.refused("GET", "/admin/operations/9", status=404, code="not_found")


async def test_what_cannot_be_recorded_does_not_happen(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    async def fail(self: Store, operation: Operation, seal: object) -> Operation:
        raise StoreUnavailable("the log's disk is full")

    api = site.api()
    monkeypatch.setattr(type(site.store), "append_operation", fail)
    message = await api.refused("POST", "/admin/namespaces/", {"id": "lab"}, status=503, code="store_unavailable")
    assert "nothing was changed" in message
    monkeypatch.undo()
    await api.refused("GET", "/admin/namespaces/lab", status=404, code="not_found")


async def test_a_change_whose_end_is_not_on_record_is_not_denied(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    append = type(site.store).append_operation

    async def fail(self: Store, operation: Operation, seal: Seal) -> Operation:
        if operation.outcome == "done":
            raise StoreUnavailable("gone")
        return await append(self, operation, seal)

    api = site.api()
    monkeypatch.setattr(type(site.store), "append_operation", fail)
    message = await api.refused("POST", "/admin/namespaces/", {"id": "lab"}, status=503, code="store_unavailable")
    assert "The change was made" in message
    monkeypatch.undo()
    assert await api.call("GET", "/admin/namespaces/lab")


def copy_of(seq: int, number: int) -> str:
    """A statement that puts a copy of an entry under another number."""
    columns = "timestamp, operator, address, op_type, doc_id, ops, outcome, begun, previous, hash"
    return f"INSERT INTO operations (seq, {columns}) SELECT {number}, {columns} FROM operations WHERE seq = {seq}"


async def test_a_change_whose_end_the_log_refuses_is_not_denied(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    append = type(site.store).append_operation

    async def fail(self: Store, operation: Operation, seal: Seal) -> Operation:
        if operation.outcome != "begun":
            raise ValueError("no such thing fits")
        return await append(self, operation, seal)

    api = site.api()
    monkeypatch.setattr(type(site.store), "append_operation", fail)
    message = await api.refused("POST", "/admin/namespaces/", {"id": "lab"}, status=500, code="internal_error")
    assert "The change was made" in message
    await api.refused("POST", "/admin/namespaces/", {"id": "lab"}, status=409, code="already_exists")
    monkeypatch.undo()
    assert await api.call("GET", "/admin/namespaces/lab")


async def test_no_change_is_made_that_nothing_could_follow_in_the_log(site: Site) -> None:
    api = site.api()
    await write_some(api)
    tamper(site, lambda db: db.execute(copy_of(8, LAST_OPERATION)))
    message = await api.refused("POST", "/admin/namespaces/", {"id": "lab"}, status=409, code="log_damaged")
    assert "nothing was changed" in message
    await api.refused("GET", "/admin/namespaces/lab", status=404, code="not_found")
    faults = (await api.call("GET", "/admin/operations/verify"))["faults"]
    assert LAST_OPERATION in [fault["seq"] for fault in faults]


async def test_the_command_the_doctor_and_the_server_agree_on_a_log(site: Site) -> None:
    api = site.api()
    await write_some(api)
    for statement in (copy_of(1, 0), copy_of(1, -5)):
        tamper(site, lambda db, statement=statement: db.execute(statement))
    secret = site.settings.server.admin_secret_file.read_text().strip()
    async with AdminClient("admin", secret, site.url) as client:
        verdict = await check_chain(client.operations)
        [finding] = [each for each in await check_from_inside(client) if each.check == "operation log"]
    assert [fault["seq"] for fault in verdict.faults] == [-5, 0]
    assert (await api.call("GET", "/admin/operations/verify"))["faults"] == list(verdict.faults)
    assert (finding.verdict, finding.detail) == (Verdict.BAD, "broken at entry -5")


TAMPERING: list[tuple[str, int]] = [
    ("UPDATE operations SET operator = 'nobody' WHERE seq = 3", 3),
    ("UPDATE operations SET ops = '{}' WHERE seq = 3", 3),
    ("UPDATE operations SET ops = 'rubbish' WHERE seq = 3", 3),
    ("UPDATE operations SET timestamp = timestamp + 0.001 WHERE seq = 8", 8),
    ("UPDATE operations SET hash = (SELECT hash FROM operations WHERE seq = 4) WHERE seq = 3", 3),
    ("DELETE FROM operations WHERE seq = 1", 1),
    ("DELETE FROM operations WHERE seq = 5", 5),
    ("DELETE FROM operations WHERE seq >= 7", 7),
    ("DELETE FROM operations", 1),
    ("DELETE FROM operations_head", 8),
    ("UPDATE operations SET hash = 'é' WHERE seq = 8", 8),
    ("UPDATE operations_head SET hash = 'é'", 8),
    ("UPDATE operations SET seq = 9 WHERE seq = 8", 8),
    ("UPDATE operations SET seq = 0 WHERE seq = 1", 1),
    (copy_of(1, 0), 0),
    (copy_of(1, -5), -5),
    (copy_of(8, 10**15), 10**15),
    ("UPDATE operations SET doc_id = CAST(x'ff' AS TEXT) WHERE seq = 3", 3),
    (f"UPDATE operations SET ops = '{'[' * 5000}' WHERE seq = 3", 3),
    ("UPDATE operations_head SET hash = CAST(x'ff' AS TEXT)", 8),
    (
        "INSERT INTO operations SELECT 9, timestamp, operator, address, op_type, doc_id, ops, outcome, begun, hash, "
        "hash FROM operations WHERE seq = 8",
        9,
    ),
]


@pytest.mark.parametrize(("statement", "fault"), TAMPERING, ids=range(len(TAMPERING)))
async def test_tampering_is_found(site: Site, statement: str, fault: int) -> None:
    api = site.api()
    await write_some(api)
    tamper(site, lambda db: db.execute(statement))
    verdict = await api.call("GET", "/admin/operations/verify")
    assert not verdict["valid"]
    assert fault in [each["seq"] for each in verdict["faults"]], verdict
    await api.call("GET", "/admin/operations/")
    await api.call("GET", "/admin/operations/?order=oldest&doc_id=lab")
    await write_some(api)
    assert not (await api.call("GET", "/admin/operations/verify"))["valid"] or "head" in statement


async def test_the_log_goes_on_after_tampering(site: Site) -> None:
    api = site.api()
    await write_some(api)
    for statement in ("DELETE FROM operations_head", "DELETE FROM operations WHERE seq = 3"):
        tamper(site, lambda db, statement=statement: db.execute(statement))
        await write_some(api)
        assert not (await api.call("GET", "/admin/operations/verify"))["valid"] or "head" in statement
    assert (await api.call("GET", "/admin/operations/"))[0]["seq"] == 24


async def test_a_write_reads_no_entry_while_the_log_is_one_chain(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    api = site.api()
    await write_some(api)
    reads = []
    original = SqliteStore.list_operations

    async def counted(self: SqliteStore, **options: Any) -> list[Operation]:
        reads.append(options)
        return await original(self, **options)

    monkeypatch.setattr(SqliteStore, "list_operations", counted)
    await write_some(api)
    assert reads == []
    for statement in CUT:
        tamper(site, lambda db, statement=statement: db.execute(statement))
    await write_some(api)
    assert reads, "an entry that does not follow the last one makes it look"


async def test_a_server_looks_at_the_end_of_the_log_when_it_starts(site: Site) -> None:
    await write_some(site.api())
    for statement in CUT:
        tamper(site, lambda db, statement=statement: db.execute(statement))
    server = msgspec.structs.replace(site.settings.server, port=0, daemons="none")
    async with Server(msgspec.structs.replace(site.settings, server=server)):
        [entry] = await site.store.list_operations(where={"op_type": "operations.broken"})
    assert (entry.seq, entry.operator, entry.outcome) == (7, "", "found")
    assert "entry 8 is missing" in entry.ops["problem"]


async def test_a_log_cut_short_stays_so_when_it_goes_on(site: Site) -> None:
    api = site.api()
    await write_some(api)
    tamper(site, lambda db: db.execute("DELETE FROM operations WHERE seq > 6"))
    await write_some(api)
    faults = (await api.call("GET", "/admin/operations/verify"))["faults"]
    assert faults == [{"seq": 7, "problem": "entries 7 to 8 are missing"}]


CUT = (
    "DELETE FROM operations WHERE seq > 6",
    "UPDATE operations_head SET seq = 6, hash = (SELECT hash FROM operations WHERE seq = 6)",
)
ALL_GONE = ("DELETE FROM operations", "DELETE FROM operations_head")


@pytest.mark.parametrize(("statements", "first"), [(CUT, 7), (ALL_GONE, 1)], ids=["cut", "all"])
async def test_a_log_whose_end_was_put_back_with_it_is_found_short(
    site: Site, statements: tuple[str, ...], first: int
) -> None:
    api = site.api()
    await write_some(api)
    for statement in statements:
        tamper(site, lambda db, statement=statement: db.execute(statement))
    [fault] = (await api.call("GET", "/admin/operations/verify"))["faults"]
    assert fault["seq"] == first
    assert f"entries {first} to 8 are missing" in fault["problem"]
    await write_some(api)  # it goes on, and does not grow over the place
    await write_some(api)
    verdict = await api.call("GET", "/admin/operations/verify")
    assert [fault["seq"] for fault in verdict["faults"]] == [8], verdict
    assert "not the one that this server has seen" in verdict["faults"][0]["problem"]
    told = await api.call("GET", "/admin/operations/?op_type=operations.broken")
    assert [entry["ops"]["problem"] for entry in told][-1] == "entry 8 is missing, which this server has seen"
    assert len(told) == 2, "once for what is missing, once for what is in its place"


async def test_a_backup_is_accepted_by_removing_the_anchor(site: Site) -> None:
    api = site.api()
    await write_some(api)
    for statement in CUT:
        tamper(site, lambda db, statement=statement: db.execute(statement))
    [anchor] = site.settings.server.key_file.parent.glob("operations-*.anchor")
    assert anchor.stat().st_mode & 0o777 == 0o600
    anchor.unlink()
    assert (await api.call("GET", "/admin/operations/verify"))["valid"]
    await write_some(api)
    verdict = await api.call("GET", "/admin/operations/verify")
    assert (verdict["valid"], verdict["anchor"], verdict["last"]) == (True, 14, 14)


async def test_an_anchor_that_was_changed_is_found_and_stays(site: Site) -> None:
    api = site.api()
    await write_some(api)
    [anchor] = site.settings.server.key_file.parent.glob("operations-*.anchor")
    changed = anchor.read_text().replace('"seq": 8', '"seq": 6')
    anchor.write_text(changed)
    for _ in range(2):
        verdict = await api.call("GET", "/admin/operations/verify")
        assert [fault["seq"] for fault in verdict["faults"]] == [0]
        assert "was changed" in verdict["faults"][0]["problem"]
        await write_some(api)
    assert anchor.read_text() == changed
    assert len(await api.call("GET", "/admin/operations/?op_type=operations.broken")) == 1


async def test_an_entry_that_a_crash_left_ahead_of_the_head_is_nobodys_fault(site: Site) -> None:
    api = site.api()
    await write_some(api)
    tamper(
        site,
        lambda db: db.execute("UPDATE operations_head SET seq = 7, hash = (SELECT hash FROM operations WHERE seq = 7)"),
    )
    await write_some(api)
    verdict = await api.call("GET", "/admin/operations/verify")
    assert (verdict["valid"], verdict["last"], verdict["anchor"]) == (True, 16, 16)


async def test_a_log_that_refuses_an_entry_refuses_the_change_and_says_so(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(self: Store, operation: Operation, seal: object) -> Operation:
        raise ValueError("no such thing fits")

    api = site.api()
    monkeypatch.setattr(type(site.store), "append_operation", fail)
    message = await api.refused("POST", "/admin/namespaces/", {"id": "lab"}, status=500, code="internal_error")
    assert "nothing was changed" in message
    monkeypatch.undo()
    await api.refused("GET", "/admin/namespaces/lab", status=404, code="not_found")


def tamper(site: Site, change: Callable[[sqlite3.Connection], Any]) -> None:
    """Change the database behind everybody's back."""
    path = site.settings.store.url.removeprefix("sqlite:///")
    with closing(sqlite3.connect(path, timeout=10)) as db, db:
        change(db)


async def test_how_hosts_are_installed_is_on_record_without_credentials(site: Site) -> None:
    await site.store.add_record(VirtualHost("h1"))
    options = {"index_url": "https://me:hidden@pypi.example/x", "pip_args": ["--find-links", "https://hidden@files/"]}
    asked = {"params": {"hosts": ["h1"], "options": options}}
    await site.api().send("POST", "/admin/ssh/init", msgspec.json.encode(asked))
    log = await site.api().call("GET", "/admin/operations/")
    assert {entry["op_type"] for entry in log} == {"hosts.init"}
    assert "***@pypi.example/x" in str(log)
    assert "hidden" not in str(log)
