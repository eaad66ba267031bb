"""The operation log: every write is on it, before and after; whoever tampers with it is found out."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from typing import Any

import pytest

from dts.errors import StoreUnavailable
from dts.model import Operation
from dts.store import Store
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
    assert log[2]["ops"] == {"description": "x", "limits": {"unfinished": 5}}
    assert await api.call("GET", "/admin/operations/3") == log[2]
    assert await api.call("GET", "/admin/operations/verify") == {
        "valid": True,
        "entries": 8,
        "last": 8,
        "faults": [],
    }


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
    await api.refused("POST", "/admin/namespaces/", {"id": "lab"}, status=503, code="store_unavailable")
    monkeypatch.undo()
    await api.refused("GET", "/admin/namespaces/lab", status=404, code="not_found")


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


async def test_the_log_goes_on_after_tampering(site: Site) -> None:
    api = site.api()
    await write_some(api)
    for statement in ("DELETE FROM operations_head", "DELETE FROM operations WHERE seq = 3"):
        tamper(site, lambda db, statement=statement: db.execute(statement))
        await write_some(api)
        assert not (await api.call("GET", "/admin/operations/verify"))["valid"] or "head" in statement
    assert (await api.call("GET", "/admin/operations/"))[0]["seq"] == 24


async def test_a_log_cut_short_stays_so_when_it_goes_on(site: Site) -> None:
    api = site.api()
    await write_some(api)
    tamper(site, lambda db: db.execute("DELETE FROM operations WHERE seq > 6"))
    await write_some(api)
    faults = (await api.call("GET", "/admin/operations/verify"))["faults"]
    assert faults == [{"seq": 7, "problem": "entries 7 to 8 are missing"}]


def tamper(site: Site, change: Callable[[sqlite3.Connection], Any]) -> None:
    """Change the database behind everybody's back."""
    path = site.settings.store.url.removeprefix("sqlite:///")
    with closing(sqlite3.connect(path, timeout=10)) as db, db:
        change(db)
