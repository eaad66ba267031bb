"""A backup of a store that is in use, and a restore onto either back end: users, keys, the log's chain, open work."""

from __future__ import annotations

import gzip
import shutil
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

import msgspec
import pytest
from msgspec import structs

from dts.config import Settings
from dts.errors import InvalidInput, RequestRefused
from dts.management import AdminClient
from dts.model import (
    AlertRule,
    Candidate,
    Document,
    Function,
    Limits,
    Namespace,
    Operation,
    Record,
    Route,
    Run,
    RunState,
    Schedule,
    Silence,
    User,
    VirtualHost,
    derived_id,
    new_id,
)
from dts.model.secrets import COLLECTION as SECRETS
from dts.model.secrets import Secret
from dts.server.app import Server
from dts.server.backup.export import Export, Page
from dts.server.backup.restore import Restore
from dts.server.ending.retention import KEPT_OPEN
from dts.server.intake.following import FOLLOWING, Following, follow
from dts.server.intake.ingest import Arguments, batch_from_arguments, new_block
from dts.server.unattended.scheduler import SCHEDULES
from dts.server.versions.library import COLLECTION as VERSIONS
from dts.store import Store, open_store
from dts.store.contract.records import TABLES
from dts.wire import codec, dts_pb2
from tests.integration.conftest import Site
from tests.services import mongodb
from tests.services.fleet import open_sealed


@pytest.fixture(scope="module")
def mongo() -> Iterator[mongodb.MongoServer]:
    if not mongodb.available():
        pytest.skip("no mongod on this machine")
    with mongodb.MongoServer() as started:
        yield started


@pytest.fixture(params=["sqlite", "mongodb"])
def target_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of an empty store to restore into."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/target.db"
    server: mongodb.MongoServer = request.getfixturevalue("mongo")
    return server.url(f"test_{uuid.uuid4().hex}")


@asynccontextmanager
async def another_site(settings: Settings, tmp_path: Path, url: str) -> AsyncIterator[Site]:
    """A new server on an empty store, with a copy of the key file."""
    folder = tmp_path / "another"
    folder.mkdir()
    shutil.copy(settings.server.key_file, folder / "server.key")
    server = structs.replace(
        settings.server, key_file=folder / "server.key", admin_secret_file=folder / "admin.secret", port=0
    )
    there = structs.replace(
        settings,
        store=structs.replace(settings.store, url=url),
        broker=structs.replace(settings.broker, url=f"sqlite:///{folder}/queue.db"),
        server=server,
    )
    async with Server(there) as running, open_store(url) as store, open_sealed(there) as broker:
        yield Site(f"http://127.0.0.1:{running.port}", there, store, broker)


def admin_of(site: Site, secret: str | None = None) -> AdminClient:
    secret = secret or site.settings.server.admin_secret_file.read_text().strip()
    return AdminClient("admin", secret, site.url)


async def test_what_administrators_keep_and_open_work_moves_to_another_server(
    site: Site, settings: Settings, tmp_path: Path, target_url: str
) -> None:
    api = site.api()
    await api.call(
        "POST", "/admin/users/", {"id": "bob", "secret": "secret of bob", "namespaces": ["text"]}, status=201
    )
    await api.call("POST", "/admin/vhosts/", {"id": "h1", "ssh_key": "a private key"}, status=201)
    await api.call("POST", "/admin/alerts/rules/", {"id": "disk", "kind": "disk", "threshold": 7}, status=201)
    await api.call("DELETE", "/admin/functions/text/reverse")
    run = (await api.call("POST", "/runs/", {"function": "text/upper"}, status=201))["id"]
    assert (await api.send("PUT", f"/runs/{run}/blocks/0", b'{"args":[1]}\n{"args":[2]}\n{"args":[3]}\n')).code == 201
    batches = await site.take_messages(3)
    await site.finish(
        dts_pb2.JobBatch(block=batches[0].block, run=run, function="text/upper", jobs=batches[0].jobs[:1])
    )
    await api.call("GET", f"/runs/{run}/results?wait=30")
    secret = settings.server.admin_secret_file.read_text().strip()
    async with admin_of(site) as admin:
        assert await admin.backup(tmp_path / "b", runs=True) > 10
    before = {path: await api.call("GET", path) for path in ("/admin/users/", "/admin/functions/", "/admin/vhosts/")}
    log = await api.call("GET", "/admin/operations/?order=oldest")
    async with another_site(settings, tmp_path, target_url) as there:
        async with admin_of(there) as admin:
            done = await admin.restore(tmp_path / "b")
            assert (done["runs"], done["blocks"], done["operations"]) == (1, 1, len(log))
            assert done["removed"] >= 1, "a function that a new server registers and that was deleted"
        api = there.api("admin", secret)
        assert {path: await api.call("GET", path) for path in before} == before
        assert (await api.call("GET", "/admin/operations/?order=oldest"))[: len(log)] == log
        verdict = await api.call("GET", "/admin/operations/verify")
        assert (verdict["valid"], verdict["faults"]) == (True, [])
        assert (await api.call("GET", "/admin/operations/?limit=1"))[0]["op_type"] == "backup.restore"
        bob = there.api("bob", "secret of bob")
        assert (await bob.call("GET", "/whoami"))["id"] == "bob"
        left = await there.take_messages(2)
        assert sorted(job.index for batch in left for job in batch.jobs) == [1, 2]
        for batch in left:
            await there.finish(batch)
        await api.call("PATCH", f"/runs/{run}", {"state": "closed"})
        lines: list[Any] = []
        while len(lines) < 3:
            answer = await api.send("GET", f"/runs/{run}/results?wait=30")
            lines = [msgspec.json.decode(line) for line in answer.body.splitlines()]
        assert sorted(line["job"] for line in lines) == [0, 1, 2]
        async with admin_of(there, secret) as admin:
            await admin.backup(tmp_path / "new")
    await site.api().call("PATCH", "/admin/users/bob", {"email": "b@example.com"})
    async with admin_of(site) as admin:
        with pytest.raises(RequestRefused, match="operation log of this store has"):
            await admin.restore(tmp_path / "new")


RECORDS: list[Record] = [
    Namespace("n", "ü", Limits(unfinished=5)),
    Function("n/f", "a", retry_on=("ValueError",)),
    VirtualHost("h", ssh_key=b"\x00sealed"),
    Route("far", paused=True),
    Schedule("s", "u", "n/f", every=60.0, work=b"{}"),
    AlertRule("r", "disk", 5.0, hosts=("a",)),
    Silence("q", 1.0, 2.0),
]


async def a_full_store(store: Store) -> None:
    """Something of every kind, with more than one page of the log and of the parts of a block."""
    for record in RECORDS:
        await store.add_record(record)
    await store.note_seeded(["text/upper"])
    await store.put_documents([Document(VERSIONS, "n/f@1", {"a": 1}, "n/f", body=b"\x00" * 2_000_000)])
    for number in range(120):
        entry = Operation(float(number), "admin", "127.0.0.1", "x", "y", {"n": number}, "done")
        await store.append_operation(entry, lambda entry: f"hash {entry.seq} {entry.previous}")
    run = Run(new_id(), "u", "n/f", 2048, created=1.0)
    big = new_block(run, 0, "n/f", batch_from_arguments([Arguments(b'["' + b"x" * 5000 + b'"]', b"")] * 300))
    small = new_block(run, 1, "n/f", batch_from_arguments([Arguments(b"[1]", b"")] * 3))
    await store.add_blocks([big, small], run=run)
    for index in range(5):
        batch = dts_pb2.ResultBatch(block=big.id, run=run.id, function="n/f")
        status = dts_pb2.FAILED if index == 2 else dts_pb2.SUCCEEDED
        batch.results.add(index=index, status=status, value=b'"x"')
        body, encoding = codec.encode(batch)
        ended = {"failed" if index == 2 else "succeeded": 1 << index}
        await store.record([Candidate(big.id, body, encoding, **ended)])


async def copy(source: Store, target: Store, *, seconds: float = 60.0) -> int:
    """Copy by backup and restore; returns how many pages it took."""
    export, token, number = Export(source, "key", runs=True, seconds=seconds), "", 0
    while True:
        page = await export.page(token)
        await Restore(target, "key").stage("0123456789", number, page.rows)
        number, token = number + 1, page.next
        if not token:
            break
    await Restore(target, "key").apply("0123456789", number)
    return number


async def everything(store: Store) -> dict[str, Any]:
    """All that a backup is about, as plain values."""
    found: dict[str, Any] = {table: await store.list_records(kind, limit=None) for kind, table in TABLES.items()}  # type: ignore[type-var]
    [run] = await store.list_runs()
    return found | {
        "seeded": await store.list_seeded(),
        "log": await store.list_operations(limit=5000, newest_first=False),
        "versions": [
            replace(document, revision=0) for document in await store.get_documents(VERSIONS, ["n/f@1"], body=True)
        ],
        "run": run,
        "blocks": await store.list_blocks(run.id),
        "bodies": [(await store.get_block(each.block)).body for each in await store.list_blocks(run.id)],  # type: ignore[union-attr]
        "parts": await store.get_parts(f"{run.id}-0"),
    }


async def test_a_copy_by_pages_is_equal_in_everything_and_done_twice_changes_nothing(
    tmp_path: Path, target_url: str
) -> None:
    async with open_store(f"sqlite:///{tmp_path}/source.db") as source, open_store(target_url) as target:
        await a_full_store(source)
        await target.add_record(Function("n/extra"))
        assert await copy(source, target) == 2
        expected = await everything(source)
        assert await everything(target) == expected
        await copy(source, target)
        assert await everything(target) == expected
        back = f"sqlite:///{tmp_path}/back.db"
        async with open_store(back) as again:
            await copy(target, again)
            assert await everything(again) == expected


async def test_pages_that_end_for_their_time_have_everything_and_go_on_behind_finished_runs(tmp_path: Path) -> None:
    async with (
        open_store(f"sqlite:///{tmp_path}/source.db") as source,
        open_store(f"sqlite:///{tmp_path}/target.db") as target,
    ):
        await a_full_store(source)
        expected = await everything(source)
        for _ in range(120):
            over = Run(new_id(), "u", "n/f", 2048, created=2.0)
            await source.add_run(over)
            await source.update_run(over.id, state=RunState.CLOSED)
        assert await copy(source, target, seconds=0.0) > 130
        assert await everything(target) == expected
        token, pages = "runs|", list[Page]()
        while token.startswith("runs"):
            pages.append(await Export(source, "key", runs=True, seconds=0.0).page(token))
            token = pages[-1].next
        assert [] in [page.rows for page in pages], "a hundred finished runs end a page, with where to go on"


async def test_only_who_was_given_a_page_gets_the_next_and_the_first_is_on_record(site: Site) -> None:
    api = site.api()
    for number in range(600):
        await site.store.add_record(VirtualHost(f"h{number}"))
    after = (await api.call("GET", "/admin/backup"))["next"]
    second = await api.call("GET", f"/admin/backup?after={quote(after)}")
    assert second["rows"]
    assert len(await api.call("GET", "/admin/operations/?op_type=backup.read")) == 1
    signature, given, token = after.split(".", 2)
    forged = ["header|1", "operations|x", f"{signature}.{given}.operations|", f"{signature}.{int(given) + 1}.{token}"]
    for each in [*(f"after={quote(each)}" for each in forged), f"after={quote(after)}&runs=true", "after=%ff.1.x"]:
        await api.refused("GET", f"/admin/backup?{each}", status=400, code="argument_invalid")


async def test_a_restore_begins_with_a_header(tmp_path: Path) -> None:
    async with open_store(f"sqlite:///{tmp_path}/store.db") as store:
        page = await Export(store, "key", runs=False).page("")
        with pytest.raises(InvalidInput, match="header first"):
            await Restore(store, "key").stage("0123456789", 0, page.rows[1:])
        await Restore(store, "key").stage("0123456789", 1, page.rows[1:])
        with pytest.raises(InvalidInput, match="header first"):
            await Restore(store, "key").apply("0123456789", 1)


async def test_workers_get_the_secrets_of_the_backup_before_runs_go_on(
    site: Site, settings: Settings, tmp_path: Path
) -> None:
    await site.api().call("POST", "/admin/secrets/", {"id": "text/TOKEN", "secret": "from the backup"}, status=201)
    async with admin_of(site) as admin:
        await admin.backup(tmp_path / "b")
    async with another_site(settings, tmp_path, f"sqlite:///{tmp_path}/target.db") as there:
        await there.store.add_record(Secret("gone/TOKEN", "gone"))
        await there.store.put_documents([Document(SECRETS, "gone", {}, body=b"x")])
        async with admin_of(there) as admin:
            await admin.restore(tmp_path / "b")
        assert [each.id for each in await there.store.list_documents(SECRETS)] == ["text"]


async def test_finished_runs_that_are_still_followed_are_in_it_and_what_follows_is_put_back_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with (
        open_store(f"sqlite:///{tmp_path}/source.db") as source,
        open_store(f"sqlite:///{tmp_path}/target.db") as target,
    ):
        await source.add_user(User("u", b""))
        await source.add_record(Schedule("s", "u", "n/f", every=60.0, work=b"{}"))
        await source.put_documents([Document(SCHEDULES, "s", {}, due=1e12), Document(KEPT_OPEN, "r", {})])
        followed, told, over = [Run(new_id(), "u", "n/f", 2048, RunState.CLOSED, created=1.0) for _ in range(3)]
        round_ = replace(followed, id=derived_id(followed.id, "/reduce/1"))
        await follow(source, followed.id, Following(reduce="n/f"))
        await follow(source, over.id, Following(then=("n/f",)))
        for run_id, fields in ((followed.id, {"due": 1e12}), (over.id, {"due": None})):
            document = await source.get_document(FOLLOWING, run_id)
            assert document is not None
            data = {**document.data, "progress": {"source": round_.id, "level": 1} if fields["due"] else {}}
            await source.replace_document(replace(document, data=data, **fields))
        for run in (followed, replace(told, follow_up=True), over, round_):
            block = new_block(run, 0, "n/f", batch_from_arguments([Arguments(b"[1]", b"")]))
            await source.add_blocks([block], run=run)
            batch = dts_pb2.ResultBatch(block=block.id, run=run.id, function="n/f")
            batch.results.add(index=0, status=dts_pb2.SUCCEEDED, value=b"1")
            await source.record([Candidate(block.id, *codec.encode(batch), succeeded=1)])

        order: list[str] = []

        def noting(call: Any, given: Any, **named: Any) -> Any:
            order.append(given[0].collection if isinstance(given, list) else type(given).__name__)
            return call(given, **named)

        for name in ("put_documents", "add_record", "update_run"):
            monkeypatch.setattr(target, name, partial(noting, getattr(target, name)))
        await copy(source, target)
        assert order[-6:] == ["str", "User", "Schedule", SCHEDULES, FOLLOWING, FOLLOWING], "runs, users, and then these"
        for run in (followed, told, round_):
            there = await target.get_run(run.id)
            assert there is not None
            assert there.finished is not None
            assert await target.get_parts(f"{run.id}-0") == await source.get_parts(f"{run.id}-0")
        assert await target.get_run(over.id) is None
        assert await target.get_document(KEPT_OPEN, "r") is not None, "no run is closed that waits for another one"


async def test_another_key_file_another_log_and_a_missing_page_are_refused(tmp_path: Path) -> None:
    async with (
        open_store(f"sqlite:///{tmp_path}/source.db") as source,
        open_store(f"sqlite:///{tmp_path}/target.db") as target,
    ):
        page = await Export(source, "key", runs=False).page("")
        with pytest.raises(InvalidInput, match="another key file"):
            await Restore(target, "other").stage("0123456789", 0, page.rows)
        with pytest.raises(InvalidInput, match="not one of a backup"):
            await Restore(target, "key").stage("0123456789", 0, [msgspec.Raw(b'{"type":"nonsense"}')])
        await Restore(target, "key").stage("0123456789", 0, page.rows)
        with pytest.raises(InvalidInput, match="not all of the 2 pages"):
            await Restore(target, "key").apply("0123456789", 2)
        with pytest.raises(InvalidInput, match="not where a page"):
            await Export(source, "key", runs=False).page("nonsense|x")


async def test_a_file_that_was_cut_off_or_changed_is_refused_before_anything_is_sent(
    site: Site, tmp_path: Path
) -> None:
    async with admin_of(site) as admin:
        await admin.backup(tmp_path / "b")
        assert (tmp_path / "b").stat().st_mode & 0o777 == 0o600
        whole = (tmp_path / "b").read_bytes()
        (tmp_path / "cut").write_bytes(whole[: len(whole) // 2])
        lines = gzip.decompress(whole).splitlines(keepends=True)
        (tmp_path / "short").write_bytes(gzip.compress(b"".join([*lines[:-2], lines[-1]])))
        (tmp_path / "text").write_text("hello")
        for name in ("cut", "short", "text"):
            with pytest.raises(InvalidInput, match="backup"):
                await admin.restore(tmp_path / name)
    assert await site.store.count_documents("restore") == 0
