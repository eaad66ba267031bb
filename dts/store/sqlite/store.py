"""The embedded store: one SQLite file, nothing to install, several processes at once on one machine."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from sqlite3 import Connection, IntegrityError

from dts.embedded.thread import DatabaseFile, DatabaseThread, ReadingThread
from dts.errors import ConfigError, DuplicateKey, StoreUnavailable
from dts.model import (
    Backlog,
    Block,
    Candidate,
    Claim,
    DeadLetter,
    KeyedRequest,
    Outcome,
    Part,
    Run,
    RunState,
    Statistics,
    Turns,
    Unsent,
)
from dts.store.abc import KEYS_KEPT
from dts.store.contract.results import SMALL_BLOCK, BlockRecord
from dts.store.contract.shared import parse_job_ids, parse_receipts, storable
from dts.store.sqlite import blocks as sqlite_blocks
from dts.store.sqlite import counts as sqlite_counts
from dts.store.sqlite import outcomes as sqlite_outcomes
from dts.store.sqlite.admin import SqliteAdminStore
from dts.store.sqlite.clock import CLOCK_TABLES, follow_clock, must_follow
from dts.store.sqlite.counts import COUNT_TRIGGERS, COUNTS
from dts.store.sqlite.documents import DOCUMENT_TABLES, SqliteDocumentStore
from dts.store.sqlite.finishing import FINISHING_INDEXES, FINISHING_TRIGGERS, SqliteFinishingStore
from dts.store.sqlite.fleet import FLEET_TABLES, SqliteFleetStore
from dts.store.sqlite.gate import TURNS, SqliteGateStore
from dts.store.sqlite.repair import SqliteRepairStore
from dts.store.sqlite.retention import SqliteRetentionStore
from dts.store.sqlite.rows import (
    AMONG,
    DEAD_LETTER,
    RUN,
    Row,
    dead_letter_from,
    dead_letter_row,
    listed,
    marks,
    run_from,
    run_row,
)
from dts.store.sqlite.schema import NONCES, TABLES, connect, open_database
from dts.store.sqlite.waiting import WAITING_TABLES, SqliteWaitingStore, leases_of, waiting_slices

_PREFIX = "sqlite:///"
_TABLES = (
    f"{TABLES} {WAITING_TABLES} {FLEET_TABLES} {FINISHING_INDEXES} {CLOCK_TABLES} {DOCUMENT_TABLES} "
    f"{COUNTS}; {COUNT_TRIGGERS}; {FINISHING_TRIGGERS}"
)
_PING_TIMEOUT = 2.0  # seconds, as the contract says

# The indexes are named so that a change of theirs makes a statement fail, rather than read every run or block.
_CANCELLED = """
    SELECT id FROM runs INDEXED BY runs_by_cancelling WHERE state = 'cancelled' AND max(cancel_time, created) > ?
    ORDER BY max(cancel_time, created) DESC LIMIT ?
"""
_HOLD_BLOCKS = """
    UPDATE blocks SET held = ? WHERE run = ? AND count > succeeded + failed + cancelled AND held <> ?
"""
_SET_TURNS = """
    UPDATE blocks SET priority = ?, weight = ?
    WHERE run = ? AND NOT published AND count > succeeded + failed + cancelled
"""
_HOLD_SLICES = "UPDATE delayed SET held = ? WHERE run = ? AND fired IS NULL AND held <> ?"
_UNSWEPT = """
    SELECT id FROM runs INDEXED BY runs_unswept WHERE state = 'cancelled' AND NOT swept
    UNION
    SELECT run FROM blocks AS b INDEXED BY blocks_unpublished CROSS JOIN runs ON runs.id = run
        WHERE NOT published AND count > b.succeeded + b.failed + b.cancelled AND held = 1 AND due < ?
            AND state = 'cancelled'
    LIMIT ?
"""


class SqliteStore(
    SqliteAdminStore,
    SqliteWaitingStore,
    SqliteFleetStore,
    SqliteRepairStore,
    SqliteGateStore,
    SqliteFinishingStore,
    SqliteRetentionStore,
    SqliteDocumentStore,
):
    """A store in a file: `sqlite:///relative/to/cwd.db` or `sqlite:////absolute/path.db`.

    Three threads, each with a connection: writes, reads, and nonces. Those are in a file of their own, beside, so that
    a signed request neither waits for anybody's fsync nor costs one.

    Raises:
        ConfigError: the URL names no path.
    """

    def __init__(self, url: str) -> None:
        path = url.removeprefix(_PREFIX)
        if path == url or not path or path.endswith("/"):
            raise ConfigError(f"store URL {url!r}: write sqlite:///path/to/store.db, or sqlite:////absolute/path.db")
        self._path = Path(path).absolute()
        nonces = self._path.with_name(self._path.name + "-nonces")
        self._writer = DatabaseThread("store-writer", _file(self._path, lambda: open_database(self._path, _TABLES)))
        self._reader = ReadingThread("store-reader", _file(self._path, lambda: connect(self._path)))
        self._nonces = DatabaseThread("store-nonces", _file(nonces, lambda: open_database(nonces, NONCES + TURNS)))

    # life

    async def start(self) -> None:
        try:
            for thread in (self._writer, self._reader, self._nonces):
                await thread.start()
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        for thread in (self._nonces, self._reader, self._writer):
            await thread.close()

    async def ping(self) -> None:
        try:
            async with asyncio.timeout(_PING_TIMEOUT):
                await self._reader.submit(lambda db: db.execute("PRAGMA schema_version").fetchone())
                await self._nonces.submit(_write_something, durable=False)
        except TimeoutError as error:
            raise StoreUnavailable("the store's file does not answer") from error

    def now(self) -> float:
        return time.time()  # all processes are on one machine

    async def follow_clock(self) -> float:
        step = await self._writer.submit(follow_clock, durable=False, needed=must_follow) or 0.0
        if step:
            await self._nonces.submit(lambda db: db.execute("DELETE FROM turns"), durable=False)
        return step

    # nonces

    async def use_nonce(self, user_id: str, nonce: str, expires: float) -> bool:
        key = storable(user_id), storable(nonce)
        return await self._nonces.submit(lambda db: _use_nonce(db, *key, expires), durable=False)

    # runs

    async def add_run(self, run: Run) -> None:
        await self._insert("runs", RUN, run_row(run), f"there is a run {run.id} already")

    async def get_run(self, run_id: str) -> Run | None:
        row = await self._one(f"SELECT {RUN} FROM runs WHERE id = ?", storable(run_id))
        return run_from(row) if row else None

    async def list_runs(
        self, user: str | None = None, *, limit: int = 100, after: str | None = None, single: bool = True
    ) -> list[Run]:
        conditions = {"user = ?": user, "id < ?": after}
        given = {text: storable(value) for text, value in conditions.items() if value is not None}
        where = " AND ".join([*given, "1" if single else "NOT single"])
        rows = await self._all(f"SELECT {RUN} FROM runs WHERE {where} ORDER BY id DESC LIMIT ?", *given.values(), limit)
        return [run_from(row) for row in rows]

    async def update_run(
        self,
        run_id: str,
        *,
        state: RunState | None = None,
        paused: bool | None = None,
        turns: Turns | None = None,
        now: float | None = None,
    ) -> Run | None:
        key, at = storable(run_id), time.time() if now is None else now

        def update(db: Connection) -> Row | None:
            _set_turns(db, key, turns)
            return _update_run(db, key, state, paused, at)

        row = await self._writer.submit(update)
        return run_from(row) if row else None

    async def cancel_runs(self, run_ids: Sequence[str], *, function: str | None = None) -> dict[str, bool]:
        keys, now = [storable(run_id) for run_id in run_ids], time.time()
        only = None if function is None else storable(function)
        return await self._writer.submit(lambda db: _cancel_runs(db, keys, only, now))

    async def cancelled_runs(self, since: float, *, limit: int) -> list[str]:
        return [row[0] for row in await self._all(_CANCELLED, since, limit)]

    async def unswept_runs(self, *, due_before: float, limit: int) -> list[str]:
        return [row[0] for row in await self._all(_UNSWEPT, due_before, limit)]

    async def note_swept(self, run_ids: Sequence[str]) -> None:
        update = f"UPDATE runs SET swept = 1 WHERE state = 'cancelled' AND id {AMONG}"
        await self._writer.submit(lambda db: _execute_many(db, update, [(listed(run_ids),)]))

    async def find_request(self, user: str, key: str) -> KeyedRequest | None:
        return await self._reader.submit(lambda db: _find_request(db, user, key))

    async def remember_request(self, request: KeyedRequest) -> KeyedRequest:
        return await self._writer.submit(lambda db: _remember_request(db, request), durable=False)

    # blocks

    async def add_blocks(
        self, blocks: Sequence[Block], *, run: Run | None = None, claim: Claim | None = None
    ) -> list[bool]:
        return await self._writer.submit(lambda db: sqlite_blocks.add_blocks(db, blocks, run, claim))

    async def get_block(self, block_id: str) -> Block | None:
        return await self._reader.submit(lambda db: sqlite_blocks.get_block(db, storable(block_id)))

    async def list_blocks(self, run_id: str, *, limit: int = 100, after: int = -1) -> list[Outcome]:
        return await self._reader.submit(lambda db: sqlite_blocks.list_blocks(db, storable(run_id), limit, after))

    async def mark_published(self, block_ids: Sequence[str]) -> None:
        keys = [storable(block_id) for block_id in block_ids]
        # A mark that a power cut takes with it costs a second publication, which is harmless; an fsync costs more.
        await self._writer.submit(lambda db: sqlite_blocks.mark_published(db, keys), durable=False)

    async def backlog(self) -> list[Backlog]:
        return await self._reader.submit(sqlite_blocks.backlog)

    async def backlog_blocks(self, rows: Sequence[tuple[Backlog, int]]) -> list[list[Unsent]]:
        return await self._reader.submit(lambda db: sqlite_blocks.backlog_blocks(db, rows))

    async def note_sent(self, sent: Mapping[str, int]) -> None:
        keys = {storable(block_id): count for block_id, count in sent.items()}
        await self._writer.submit(lambda db: sqlite_blocks.note_sent(db, keys), durable=False)

    async def extend_claims(self, block_ids: Sequence[str], claim: Claim) -> list[str]:
        keys = [storable(block_id) for block_id in block_ids]
        return await self._writer.submit(lambda db: sqlite_blocks.extend(db, keys, claim), durable=False)

    async def release_claims(self, block_ids: Sequence[str], holder: str) -> None:
        keys = [storable(block_id) for block_id in block_ids]
        await self._writer.submit(lambda db: sqlite_blocks.release(db, keys, holder), durable=False)

    async def recheck_holds(self) -> None:
        """Nothing: what is held changes in the transaction that changes its run."""

    # outcomes

    async def record(self, candidates: Sequence[Candidate], *, finish: bool = True) -> list[int | None]:
        durable = any(candidate.ended for candidate in candidates)
        return await self._writer.submit(lambda db: sqlite_outcomes.record(db, candidates), durable=durable)

    async def get_outcome(self, block_id: str) -> Outcome | None:
        return await self._reader.submit(lambda db: sqlite_outcomes.get_outcome(db, storable(block_id)))

    async def inspect_block(self, block_id: str) -> BlockRecord | None:
        return await self._reader.submit(lambda db: _inspect_block(db, storable(block_id)))

    async def get_parts(self, block_id: str) -> list[Part]:
        return await self._reader.submit(lambda db: sqlite_outcomes.get_parts(db, storable(block_id)))

    async def uncollected_parts(self, run_id: str, *, max_jobs: int) -> list[Part]:
        return await self._reader.submit(lambda db: sqlite_outcomes.uncollected_parts(db, storable(run_id), max_jobs))

    async def uncollected_counts(self, run_ids: Sequence[str]) -> dict[str, int]:
        return await self._reader.submit(lambda db: sqlite_outcomes.uncollected_counts(db, run_ids))

    async def collect(self, run_id: str, receipts: Iterable[str]) -> int:
        numbers = parse_receipts(receipts)
        return await self._writer.submit(lambda db: sqlite_outcomes.collect(db, storable(run_id), numbers))

    async def collect_jobs(self, user: str, job_ids: Iterable[str]) -> int:
        numbers = parse_job_ids(job_ids)
        return await self._writer.submit(lambda db: sqlite_outcomes.collect_jobs(db, storable(user), numbers))

    async def run_statistics(self, run_id: str) -> Statistics:
        return await self._reader.submit(lambda db: sqlite_counts.run_statistics(db, storable(run_id)))

    async def user_statistics(self, user: str) -> Statistics:
        return await self._reader.submit(lambda db: sqlite_counts.user_statistics(db, storable(user)))

    async def keep_counts(self) -> bool:
        return False  # triggers keep them with every write

    async def retrievables(self, user: str, *, limit: int, after: str | None = None) -> list[str]:
        place = await self.job_place(after)
        return await self._reader.submit(lambda db: sqlite_outcomes.retrievables(db, storable(user), limit, place))

    # dead letters

    async def add_dead_letters(self, letters: Sequence[DeadLetter]) -> None:
        insert = f"INSERT INTO dead_letters ({DEAD_LETTER}) VALUES ({marks(DEAD_LETTER)}) ON CONFLICT DO NOTHING"
        rows = [dead_letter_row(letter) for letter in letters]
        await self._writer.submit(lambda db: _execute_many(db, insert, rows))

    async def list_dead_letters(self, *, limit: int = 100, after: str | None = None) -> list[DeadLetter]:
        select = f"SELECT {DEAD_LETTER} FROM dead_letters WHERE id > ? ORDER BY id LIMIT ?"
        return [dead_letter_from(row) for row in await self._all(select, storable(after or ""), limit)]

    # the common kinds of statement

    async def _one(self, select: str, *values: object) -> Row | None:
        row: Row | None = await self._reader.submit(lambda db: db.execute(select, values).fetchone())
        return row

    async def _all(self, select: str, *values: object) -> list[Row]:
        return await self._reader.submit(lambda db: db.execute(select, values).fetchall())

    async def _insert(self, table: str, columns: str, row: Row, taken: str) -> None:
        insert = f"INSERT INTO {table} ({columns}) VALUES ({marks(columns)})"
        try:
            await self._writer.submit(lambda db: _execute_many(db, insert, [row]))
        except IntegrityError as error:
            raise DuplicateKey(taken) from error


def _file(path: Path, open: Callable[[], Connection]) -> DatabaseFile:
    # Not made anew: users, functions and what was accepted are gone, and an empty store in their place would hide that.
    return DatabaseFile(path, f"the store's file {path}", open, StoreUnavailable, is_made_anew=False)


def _inspect_block(db: Connection, block_id: str) -> BlockRecord | None:
    block, outcome = sqlite_blocks.get_block(db, block_id), sqlite_outcomes.get_outcome(db, block_id)
    if block is None or outcome is None:
        return None
    parts = sqlite_outcomes.get_parts(db, block_id) if block.count <= SMALL_BLOCK else None
    return BlockRecord(block, outcome, parts, waiting_slices(db, block_id), leases_of(db, [block_id]))


def _execute_many(db: Connection, statement: str, rows: Sequence[Row]) -> None:
    db.executemany(statement, rows)


def _use_nonce(db: Connection, user: str, nonce: str, expires: float) -> bool:
    now = time.time()
    db.execute("DELETE FROM nonces WHERE expires < ?", (now,))
    added = db.execute(
        "INSERT INTO nonces (user, nonce, expires) VALUES (?, ?, ?) ON CONFLICT DO NOTHING", (user, nonce, expires)
    )
    return added.rowcount == 1


def _write_something(db: Connection) -> None:
    """Fail if the disk is full: in the file that every signed request writes to, in a row that is of no user."""
    db.execute("INSERT OR REPLACE INTO nonces (user, nonce, expires) VALUES ('', 'ping', ?)", (time.time(),))


def _remember_request(db: Connection, request: KeyedRequest) -> KeyedRequest:
    db.execute("DELETE FROM requests WHERE created < ?", (time.time() - KEYS_KEPT,))
    key = storable(request.user), storable(request.key)
    added = db.execute(
        "INSERT INTO requests (user, key, run, digest, created) VALUES (?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
        (*key, request.run, request.digest, request.created),
    )
    if added.rowcount:
        return request
    return _find_request(db, request.user, request.key) or request


def _find_request(db: Connection, user: str, key: str) -> KeyedRequest | None:
    stored = storable(user), storable(key)
    row = db.execute("SELECT run, digest, created FROM requests WHERE user = ? AND key = ?", stored).fetchone()
    return KeyedRequest(user, key, *row) if row is not None else None


def _update_run(db: Connection, run_id: str, state: RunState | None, paused: bool | None, now: float) -> Row | None:
    select = f"SELECT {RUN} FROM runs WHERE id = ?"
    row = db.execute(select, (run_id,)).fetchone()
    if row is None:
        return None
    run = run_from(row)
    moves = state is not None and run.state.may_become(state) and not run.finished
    moved = state if state is not None and moves else run.state
    flag = run.paused if paused is None else paused
    db.execute("UPDATE runs SET state = ?, paused = ? WHERE id = ?", (moved.value, flag, run_id))
    stopped = flag or moved is RunState.CANCELLED
    db.execute(_HOLD_BLOCKS, (stopped, run_id, stopped))
    db.execute(_HOLD_SLICES, (flag, run_id, flag))
    if moved is RunState.CANCELLED and run.state is not moved:
        db.execute("UPDATE runs SET cancel_time = ? WHERE id = ?", (now, run_id))
    changed: Row = db.execute(select, (run_id,)).fetchone()
    return changed


def _set_turns(db: Connection, run_id: str, turns: Turns | None) -> None:
    if turns is not None:
        db.execute("UPDATE runs SET priority = ?, weight = ? WHERE id = ?", (*turns, run_id))
        db.execute(_SET_TURNS, (*turns, run_id))


def _cancel_runs(db: Connection, run_ids: Sequence[str], function: str | None, now: float) -> dict[str, bool]:
    select = (
        f"SELECT id, state FROM runs WHERE id {AMONG} AND (?2 IS NULL OR function = ?2) "
        "AND (state = 'cancelled' OR finished = 0)"
    )
    before = dict(db.execute(select, (listed(run_ids), function)).fetchall())
    for run_id in before:
        _update_run(db, run_id, RunState.CANCELLED, None, now)
    return {run_id: state != RunState.CANCELLED.value for run_id, state in before.items()}
