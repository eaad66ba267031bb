"""The file of a SQLite store: where it is, who may read it, what stands in its way."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import stat
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest

from dts.broker import open_broker
from dts.embedded import errors as sqlite_errors
from dts.errors import ConfigError, StoreUnavailable
from dts.model import DelayedSlice, KeyedRequest, RunState, Statistics, new_id
from dts.store import open_store
from dts.store.abc import KEYS_KEPT
from dts.store.sqlite import admin as sqlite_admin
from dts.store.sqlite import repair as sqlite_repair
from dts.store.sqlite import store as sqlite
from dts.store.sqlite.schema import TABLES, open_database
from tests.conformance.store.builders import make_block, make_run, succeeded


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the store is."""
    return tmp_path / "store.db"


@pytest.fixture
def locked(path: Path) -> Iterator[sqlite3.Connection]:
    """A connection of another process, so to speak, that can hold the lock of a store which is there."""

    async def create() -> None:
        async with open_store(f"sqlite:///{path}"):
            pass

    asyncio.run(create())
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    yield connection
    connection.close()


async def test_missing_folders_are_made_for_this_user_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    store = open_store("sqlite:///var/deep/store.db")
    monkeypatch.chdir("/")  # a relative path is one of when the store was opened
    async with store:
        await store.add_run(make_run())
        folder = tmp_path / "var" / "deep"
        modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (folder, folder.parent, *folder.iterdir())}
    assert modes.pop("var") == modes.pop("deep") == 0o700
    assert "store.db" in modes
    assert set(modes.values()) == {0o600}


@pytest.mark.parametrize("url", ["sqlite://store.db", "sqlite:store.db", "sqlite:///", "sqlite:///folder/"])
def test_a_url_without_a_path_is_refused(url: str) -> None:
    with pytest.raises(ConfigError, match=r"sqlite:///path/to/store\.db"):
        open_store(url)


def test_another_kind_of_file_is_refused(path: Path) -> None:
    text = b"this is not a database, but long enough to be one" * 100
    path.write_bytes(text)
    with pytest.raises(ConfigError, match="not an SQLite database"):
        asyncio.run(open_store(f"sqlite:///{path}").start())
    assert path.read_bytes() == text


async def test_another_programs_database_is_refused(path: Path) -> None:
    with sqlite3.connect(path) as other:
        other.execute("CREATE TABLE theirs (x)")
    with pytest.raises(ConfigError, match="another program"):
        await open_store(f"sqlite:///{path}").start()


async def test_a_later_schema_is_refused(path: Path) -> None:
    async with open_store(f"sqlite:///{path}"):
        pass
    with sqlite3.connect(path) as other:
        other.execute("PRAGMA user_version = 99")
    with pytest.raises(ConfigError, match="schema version 99"):
        await open_store(f"sqlite:///{path}").start()


async def test_a_folder_or_a_file_in_the_way_is_a_configuration_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path in (tmp_path, tmp_path / "file" / "store.db"):
        with pytest.raises(ConfigError, match=r"choose a path"):
            await open_store(f"sqlite:///{path}").start()


def test_a_start_that_failed_can_be_repeated(path: Path) -> None:
    async def start() -> None:
        async with store:
            await store.ping()

    store = open_store(f"sqlite:///{path}")
    path.mkdir()
    with pytest.raises(ConfigError):
        asyncio.run(start())
    path.rmdir()
    asyncio.run(start())


async def test_many_may_start_on_a_new_file_at_once(path: Path) -> None:
    stores = [open_store(f"sqlite:///{path}") for _ in range(6)]
    await asyncio.gather(*(store.start() for store in stores))
    run = make_run()
    await asyncio.gather(*(store.add_blocks([make_block(run, n)], run=run) for n, store in enumerate(stores)))
    assert len(await stores[0].list_blocks(run.id)) == 6
    for store in stores:
        await store.close()


async def test_a_write_waits_for_another_processs_lock(path: Path, locked: sqlite3.Connection) -> None:
    async with open_store(f"sqlite:///{path}") as store:
        locked.execute("BEGIN IMMEDIATE")
        run = make_run()
        adding = asyncio.ensure_future(store.add_run(run))
        assert await store.get_run(run.id) is None  # reading goes on
        assert await store.use_nonce("ann", "n", 4e9)  # and so does signing
        assert not adding.done()
        locked.execute("COMMIT")
        await adding
        assert await store.get_run(run.id) == run


async def test_a_lock_for_ever_is_unavailable(
    path: Path, locked: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite_errors, "LOCK_TIMEOUT", 0.1)
    async with open_store(f"sqlite:///{path}") as store:
        locked.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreUnavailable, match="locked"):
            await store.add_run(make_run())
        locked.execute("ROLLBACK")
        await store.add_run(make_run())


async def test_a_full_disk_is_unavailable_and_costs_only_what_did_not_fit(path: Path) -> None:
    async with open_store(f"sqlite:///{path}") as store:
        run = make_run()
        await store.add_run(run)
        writer = store._writer  # type: ignore[attr-defined]  # the only way to make a disk small
        pages = await writer.submit(lambda db: db.execute("PRAGMA page_count").fetchone()[0])
        await writer.submit(lambda db: db.execute(f"PRAGMA max_page_count = {pages + 10}").fetchone())
        with pytest.raises(StoreUnavailable, match="full"):
            await store.add_blocks([make_block(run, 0, body=b"x" * 1_000_000)])
        assert await store.add_blocks([make_block(run, 1)]) == [True]
        assert await store.get_block(make_block(run, 0).id) is None
        await writer.submit(lambda db: db.execute("PRAGMA max_page_count = 1000000").fetchone())
        assert await store.add_blocks([make_block(run, 0, body=b"x" * 1_000_000)]) == [True]


async def test_one_call_that_fails_does_not_fail_the_others_in_its_transaction(path: Path) -> None:
    async with open_store(f"sqlite:///{path}") as store:
        run = make_run()
        calls = [store.add_run(run) for _ in range(3)] + [store.add_run(make_run()) for _ in range(3)]
        answers = await asyncio.gather(*calls, return_exceptions=True)
        assert [answer is None for answer in answers] == [True, False, False, True, True, True]
        assert len(await store.list_runs()) == 4


async def test_the_file_of_a_broker_is_refused(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/queue.db"
    async with open_broker(url):
        with pytest.raises(ConfigError, match="broker"):
            await open_store(url).start()


async def test_a_ping_writes(tmp_path: Path) -> None:
    """A full disk can be read: a server that cannot take a request is not ready."""
    async with open_store(f"sqlite:///{tmp_path}/store.db") as store:
        await store.ping()
        await store.ping()
        nonces = sqlite3.connect(tmp_path / "store.db-nonces")
        assert nonces.execute("SELECT user, nonce FROM nonces").fetchall() == [("", "ping")]
        nonces.close()


@pytest.mark.parametrize("version", [1, 2, 4, 5, 6, 7, 8, 9, 10, 11, 14])
async def test_a_file_of_an_earlier_version_is_brought_up_to_date(version: int, path: Path) -> None:
    url = f"sqlite:///{path}"
    run = make_run()
    block = make_block(run)
    cancelled = make_run(created=10.0, state=RunState.CANCELLED)
    waits = DelayedSlice("one", block.id, run.id, run.user, run.function, 1e10, 0b110, attempt=2)
    async with open_store(url) as store:
        await store.add_blocks([block], run=run)
        await store.add_delayed([waits])
        await store.add_run(cancelled)
    _make_older(path, version)
    for _ in range(2):
        async with open_store(url) as store:
            assert await store.get_run(run.id) == run
            assert await store.list_delayed(block.id) == [waits]
            assert await store.planned_attempts({block.id: 0}) == {block.id: {2: 0b110}}
            assert await store.cancelled_runs(5.0, limit=9) == [cancelled.id]
            assert await store.unswept_runs(due_before=0.0, limit=9) == [cancelled.id]
            assert await store.acquire("gate", "me", seconds=1)
            statistics = Statistics(total=block.count, accepted=block.count, delayed=2)
            assert await store.run_statistics(run.id) == await store.user_statistics(run.user) == statistics
            assert await store.gated_groups() == []
            assert {each.id for each in await store.list_runs(single=False)} == {cancelled.id, run.id}
            await store.note_seeded(["text/upper"])
    async with open_store(url) as store:
        assert [found.id for found in await store.finished_runs(limit=9)] == [cancelled.id]
        await store.record([succeeded(block, range(8))])
        assert await store.collect_jobs(run.user, [f"{run.id}-0"]) == 1
        closed = await store.update_run(run.id, state=RunState.CLOSED)
        assert closed is not None
        assert closed.finished is not None
        assert closed.finished.succeeded == 8


def _take_out_finished(file: sqlite3.Connection) -> None:
    for trigger in ("finished_with_last_job", "finished_when_closed"):
        file.execute(f"DROP TRIGGER {trigger}")
    for index in ("finished", "finished_of_user", "finished_of_function", "to_follow_up"):
        file.execute(f"DROP INDEX runs_{index}")
    for column in ("finished", "succeeded", "failed", "cancelled", "follow_up"):
        file.execute(f"ALTER TABLE runs DROP COLUMN {column}")
    file.executescript("CREATE TABLE run_notes (run TEXT); CREATE INDEX runs_by_function ON runs (function, id);")


def _make_older(path: Path, version: int) -> None:
    """Take out of a file what a version did not have."""
    file = sqlite3.connect(path)
    _take_out_finished(file)
    if version <= 11:
        file.executescript("DROP INDEX blocks_unpublished_single; ALTER TABLE blocks DROP COLUMN single;")
        for table in ("runs", "blocks"):
            file.executescript(f"ALTER TABLE {table} DROP COLUMN priority; ALTER TABLE {table} DROP COLUMN weight;")
    if version <= 9:
        file.executescript("DROP INDEX blocks_unpublished_of_run; ALTER TABLE blocks DROP COLUMN sent;")
    if version <= 8:
        triggers = [name for (name,) in file.execute("SELECT name FROM sqlite_schema WHERE type = 'trigger'")]
        file.executescript("".join(f"DROP TRIGGER {name};" for name in triggers) + "DROP TABLE counts;")
    if version <= 6:
        file.executescript(
            "DROP INDEX delayed_free; DROP INDEX delayed_gated; ALTER TABLE delayed DROP COLUMN held;"
            "DROP INDEX blocks_unpublished; DROP INDEX blocks_published;"
            "ALTER TABLE blocks DROP COLUMN held; ALTER TABLE blocks DROP COLUMN claimant;"
        )
    if version <= 5:
        file.executescript(
            "DROP INDEX delayed_made;ALTER TABLE delayed DROP COLUMN made; ALTER TABLE delayed DROP COLUMN made_offset;"
        )
    if version <= 4:
        file.executescript(
            "DROP INDEX runs_by_cancelling; DROP INDEX runs_unswept;"
            "ALTER TABLE runs DROP COLUMN cancel_time; ALTER TABLE runs DROP COLUMN swept;"
            "CREATE INDEX runs_cancelled ON runs (created) WHERE state = 'cancelled';"
        )
    if version <= 2:
        file.executescript(
            "DROP INDEX runs_of_files; DROP INDEX runs_of_files_by_user; DROP TABLE requests; DROP TABLE seeded;"
            "ALTER TABLE runs DROP COLUMN single; ALTER TABLE blocks DROP COLUMN taken;"
        )
    if version == 1:
        file.executescript(
            "DROP INDEX delayed_of_block; DROP TABLE holders;"
            "ALTER TABLE delayed DROP COLUMN gated; ALTER TABLE delayed DROP COLUMN released;"
            "CREATE INDEX delayed_due ON delayed (due) WHERE fired IS NULL"
        )
    file.execute(f"PRAGMA user_version = {version}")
    file.close()


async def test_a_file_without_an_index_gets_it(path: Path) -> None:
    async with open_store(f"sqlite:///{path}"):
        pass
    file = sqlite3.connect(path)
    file.execute("DROP INDEX blocks_published")
    file.close()
    async with open_store(f"sqlite:///{path}") as store:
        assert await store.published_blocks(function="text/upper", older_than=time.time()) == []


async def test_a_page_of_published_blocks_costs_the_same_however_many_there_are(path: Path) -> None:
    """It is read in order from an index of its own: neither sorted nor counted off."""
    file = open_database(path, TABLES)
    statement = vars(sqlite_repair)["_PUBLISHED"]
    plan = [row[-1] for row in file.execute(f"EXPLAIN QUERY PLAN {statement}", ("text/upper", 0, 0, "", 100))]
    file.close()
    assert "USING INDEX blocks_published (function=? AND held=? AND id>?)" in plan[0]
    assert not [step for step in plan if "TEMP B-TREE" in step]


async def test_a_look_for_runs_to_sweep_reads_no_other_runs_and_no_finished_blocks(path: Path) -> None:
    file = open_database(path, TABLES)
    plan = [row[-1] for row in file.execute(f"EXPLAIN QUERY PLAN {vars(sqlite)['_UNSWEPT']}", (0, 100))]
    file.close()
    assert [step for step in plan if step.startswith(("SCAN", "SEARCH"))] == [
        "SCAN runs USING INDEX runs_unswept",
        "SEARCH b USING INDEX blocks_unpublished (held=? AND due<?)",
        "SEARCH runs USING PRIMARY KEY (id=?)",
    ]


@pytest.mark.parametrize(
    ("fields", "index"),
    [
        (("doc_id", "op_type", "outcome"), "operations_by_document (doc_id=?"),
        (("op_type", "operator", "address"), "operations_by_operator (operator=?"),
        (("outcome", "op_type"), "operations_by_type (op_type=?"),
    ],
)
async def test_a_list_of_operations_goes_by_the_index_that_leaves_the_fewest(
    path: Path, fields: tuple[str, ...], index: str
) -> None:
    file = open_database(path, TABLES)
    for newest_first in (True, False):
        select, values = sqlite_admin._select_operations(dict.fromkeys(fields, "x"), 10, 5, newest_first=newest_first)
        plan = [row[-1] for row in file.execute(f"EXPLAIN QUERY PLAN {select}", values)]
        assert len(plan) == 1, "and nothing is sorted"
        assert index in plan[0]
    file.close()


async def test_what_a_key_stood_for_is_forgotten_in_the_end(path: Path) -> None:
    async with open_store(f"sqlite:///{path}") as store:
        old = KeyedRequest("ann", "k", new_id(), b"body", time.time() - KEYS_KEPT - 1)
        assert await store.remember_request(old) == old
        new = KeyedRequest("ann", "k", new_id(), b"other", time.time())
        assert await store.remember_request(new) == new


async def test_a_file_that_is_deleted_in_use_is_noticed_and_used_again_when_it_is_back(path: Path) -> None:
    async with open_store(f"sqlite:///{path}") as store:
        run = make_run()
        await store.add_run(run)
        os.rename(path, away := path.with_name("away.db"))
        calls: list[Callable[[], Awaitable[object]]] = [store.ping, lambda: store.add_run(make_run()), store.list_runs]
        for call in calls:
            with pytest.raises(StoreUnavailable, match=r"store\.db .* deleted or moved while in use.* Put it back"):
                await call()
        assert path.name not in os.listdir(path.parent), "an empty store would hide that everything is gone"
        os.rename(away, path)
        await store.ping()
        assert await store.list_runs() == [run]


async def test_another_file_in_its_place_is_used(path: Path) -> None:
    async with open_store(f"sqlite:///{path}") as store:
        await store.add_run(make_run())
        for name in ("store.db", "store.db-wal", "store.db-shm"):
            path.with_name(name).unlink()
        async with open_store(f"sqlite:///{path}") as other:
            await other.add_run(run := make_run())
            assert await store.list_runs() == [run]
            await store.add_run(make_run())
            assert len(await other.list_runs()) == 2


async def test_a_large_statement_leaves_nothing_in_the_folder_for_temporary_files(path: Path) -> None:
    def change_a_lot(db: sqlite3.Connection) -> list[str]:
        db.execute("CREATE TABLE many (number INTEGER PRIMARY KEY, text TEXT)")
        db.executemany("INSERT INTO many VALUES (?, hex(randomblob(500)))", [(number,) for number in range(2000)])
        db.execute("UPDATE many SET text = hex(randomblob(500))")
        return [os.readlink(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd") if _is_open(fd)]

    async with open_store(f"sqlite:///{path}") as store:
        writer = store._writer  # type: ignore[attr-defined]
        found = await writer.submit(change_a_lot)
    assert not [name for name in found if "etilqs" in name], "which is what SQLite calls its temporary files"


def _is_open(fd: str) -> bool:
    return os.path.lexists(f"/proc/self/fd/{fd}")


async def test_a_full_disk_is_logged_once_and_so_is_its_end(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "dts.embedded.thread")
    async with open_store(f"sqlite:///{path}") as store:
        run = make_run()
        await store.add_run(run)
        writer = store._writer  # type: ignore[attr-defined]  # the only way to make a disk small
        pages = await writer.submit(lambda db: db.execute("PRAGMA page_count").fetchone()[0])
        await writer.submit(lambda db: db.execute(f"PRAGMA max_page_count = {pages}").fetchone())
        for _ in range(5):
            with pytest.raises(StoreUnavailable, match="its disk is full"):
                await store.add_blocks([make_block(run, 0, body=b"x" * 1_000_000)])
        await writer.submit(lambda db: db.execute("PRAGMA max_page_count = 1000000").fetchone())
        await store.add_blocks([make_block(run, 0, body=b"x" * 1_000_000)])
    said = [record.getMessage() for record in caplog.records if "the store's file" in record.getMessage()]
    assert [("its disk is full" in text, "can be used again" in text) for text in said] == [
        (True, False),
        (False, True),
    ]
