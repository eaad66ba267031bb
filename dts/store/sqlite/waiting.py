"""What a SQLite store does with jobs that wait: delayed slices, leases, deadlines, cancellations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from sqlite3 import Connection

from dts.embedded.thread import DatabaseThread
from dts.model import DelayedSlice, Lease, Outcome, bitmap
from dts.store.abc import Store
from dts.store.contract.shared import counts_from_text, counts_to_text, planned_by_pages, storable
from dts.store.sqlite.rows import AMONG, OUTCOME, Row, listed, marks, outcome_from

WAITING_TABLES = """
CREATE TABLE delayed (
    id TEXT PRIMARY KEY, block TEXT NOT NULL, run TEXT NOT NULL, user TEXT NOT NULL, function TEXT NOT NULL,
    due REAL NOT NULL, jobs BLOB NOT NULL, count INTEGER NOT NULL, attempt INTEGER NOT NULL, kills TEXT NOT NULL,
    fences TEXT NOT NULL, content_encoding TEXT NOT NULL, body BLOB NOT NULL,
    leased_until REAL NOT NULL DEFAULT 0, fired REAL,
    gated INTEGER NOT NULL DEFAULT 0, released BLOB NOT NULL DEFAULT x'',
    made_offset INTEGER NOT NULL DEFAULT 0, made BLOB NOT NULL DEFAULT x'', held INTEGER NOT NULL DEFAULT 0
) STRICT;
CREATE INDEX delayed_free ON delayed (held, due) WHERE fired IS NULL AND NOT gated;
CREATE INDEX delayed_gated ON delayed (user, function, held, due) WHERE fired IS NULL AND gated;
CREATE INDEX delayed_of_block ON delayed (block, count) WHERE fired IS NULL;
CREATE INDEX delayed_by_run ON delayed (run, count) WHERE fired IS NULL;
CREATE INDEX delayed_by_user ON delayed (user, count) WHERE fired IS NULL;
CREATE INDEX delayed_made ON delayed (block, attempt);
CREATE INDEX delayed_fired ON delayed (fired) WHERE fired IS NOT NULL;

CREATE TABLE leases (
    block TEXT NOT NULL, job INTEGER NOT NULL, run TEXT NOT NULL, worker TEXT NOT NULL, fence INTEGER NOT NULL,
    attempt INTEGER NOT NULL, expires REAL, lost INTEGER NOT NULL, PRIMARY KEY (block, job)
) STRICT, WITHOUT ROWID;
CREATE INDEX leases_by_expiry ON leases (expires) WHERE expires IS NOT NULL;

CREATE TABLE cancellations (id TEXT PRIMARY KEY, time REAL NOT NULL) STRICT, WITHOUT ROWID;
CREATE INDEX cancellations_by_time ON cancellations (time);

CREATE TABLE holders (name TEXT PRIMARY KEY, holder TEXT NOT NULL, until REAL NOT NULL) STRICT, WITHOUT ROWID;
"""

DELAYED = (
    "id, block, run, user, function, due, jobs, count, attempt, kills, fences, content_encoding, body, gated, released"
)
_INSERTED = f"{DELAYED}, made_offset, made"
_DUE = "FROM delayed INDEXED BY delayed_free WHERE fired IS NULL AND NOT gated AND held = 0 AND due <= ?1"
LEASE = "block, job, run, worker, fence, attempt, expires, lost"

FINISH = "UPDATE delayed SET fired = ?, jobs = x'', count = 0, body = x'', gated = 0, released = x''"

_MADE = "SELECT block, attempt, made_offset, made FROM delayed INDEXED BY delayed_made WHERE block = ? AND attempt"

_TAKE = f"""
    INSERT INTO leases ({LEASE}) VALUES ({marks(LEASE)})
    ON CONFLICT (block, job) DO UPDATE SET run = excluded.run, worker = excluded.worker, fence = excluded.fence,
        attempt = excluded.attempt, expires = max(coalesce(expires, 0), excluded.expires), lost = 0
    WHERE excluded.fence > fence OR excluded.fence = fence AND NOT lost
"""
_NEXT_FENCE = "UPDATE leases SET fence = fence + 1, lost = ?, expires = ? WHERE block = ? AND job = ? AND fence = ?"


class SqliteWaitingStore(Store):
    """The part of a SQLite store that is about jobs that wait. Not a store by itself."""

    _writer: DatabaseThread
    _reader: DatabaseThread

    # delayed slices

    async def add_delayed(self, slices: Sequence[DelayedSlice]) -> list[bool]:
        return await self._writer.submit(lambda db: [_add_slice(db, each) for each in slices]) if slices else []

    async def claim_delayed(self, *, now: float, limit: int, lease: float) -> list[DelayedSlice]:
        due = f"SELECT 1 {_DUE} AND leased_until <= ?1 LIMIT 1"
        if not await self._reader.submit(lambda db: db.execute(due, (now,)).fetchone()):
            return []  # spares a transaction for nothing at every look
        return await self._writer.submit(lambda db: _claim(db, now, limit, lease), durable=False)

    async def finish_delayed(self, ids: Sequence[str], *, now: float) -> None:
        update = f"{FINISH} WHERE id = ? AND fired IS NULL"
        await self._change(update, [(now, each) for each in ids])

    async def list_delayed(self, block_id: str) -> list[DelayedSlice]:
        return await self._reader.submit(lambda db: waiting_slices(db, storable(block_id)))

    async def planned_attempts(self, after: Mapping[str, int]) -> dict[str, dict[int, int]]:
        async def read(left: Mapping[str, int], limit: int) -> list[tuple[str, int, int]]:
            return await self._reader.submit(lambda db: _planned(db, left, limit))

        return await planned_by_pages(after, read)

    async def forget_delayed(self, before: float) -> int:
        delete = "DELETE FROM delayed WHERE fired IS NOT NULL AND fired < ?"
        return await self._writer.submit(lambda db: db.execute(delete, (before,)).rowcount, durable=False)

    # leases

    async def take_leases(self, leases: Sequence[Lease]) -> list[bool]:
        rows = [_lease_row(each) for each in leases]
        return await self._writer.submit(lambda db: [db.execute(_TAKE, row).rowcount == 1 for row in rows])

    async def list_leases(self, block_ids: Sequence[str]) -> list[Lease]:
        return await self._reader.submit(lambda db: leases_of(db, block_ids))

    async def expired_leases(self, *, now: float, limit: int) -> list[Lease]:
        select = f"SELECT {LEASE} FROM leases WHERE expires IS NOT NULL AND expires < ? ORDER BY expires LIMIT ?"
        rows = await self._reader.submit(lambda db: db.execute(select, (now, limit)).fetchall())
        return [_lease_from(row) for row in rows]

    async def lose_lease(self, lease: Lease) -> Lease | None:
        update = f"{_NEXT_FENCE} AND expires = ? AND NOT lost RETURNING {LEASE}"
        values = (True, lease.expires, storable(lease.block), lease.job, lease.fence, lease.expires)
        row: Row | None = await self._writer.submit(lambda db: db.execute(update, values).fetchone())
        return _lease_from(row) if row else None

    async def queue_lease(self, lease: Lease) -> None:
        update = "UPDATE leases SET expires = NULL, lost = 0 WHERE block = ? AND job = ? AND fence = ? AND lost"
        await self._change(update, [(storable(lease.block), lease.job, lease.fence)])

    async def pass_lease(self, lease: Lease) -> bool:
        values = (False, None, storable(lease.block), lease.job, lease.fence)
        changed = await self._writer.submit(lambda db: db.execute(f"{_NEXT_FENCE} AND NOT lost", values).rowcount)
        return changed == 1

    async def release_jobs(self, jobs: Mapping[str, int]) -> None:
        keys = {storable(block): each for block, each in jobs.items() if each}
        if await self._reader.submit(lambda db: any(_has_waiting(db, block) for block in keys)):
            await self._writer.submit(lambda db: _release(db, keys), durable=False)

    # deadlines

    async def overdue_blocks(self, *, now: float, limit: int) -> list[Outcome]:
        select = (
            f"SELECT {OUTCOME} FROM blocks INDEXED BY blocks_overdue WHERE deadline > 0 AND deadline < ? "
            "AND count > succeeded + failed + cancelled ORDER BY deadline LIMIT ?"
        )
        rows = await self._reader.submit(lambda db: db.execute(select, (now, limit)).fetchall())
        return [outcome_from(row) for row in rows]

    async def set_deadlines(self, deadlines: Mapping[str, float]) -> None:
        rows = [(deadline, storable(block)) for block, deadline in deadlines.items()]
        await self._change("UPDATE blocks SET deadline = ? WHERE id = ?", rows, durable=False)

    # cancellations

    async def unfinished_blocks(
        self,
        *,
        user: str | None = None,
        function: str | None = None,
        runs: Sequence[str] | None = None,
        limit: int = 100,
        after: str = "",
    ) -> list[Outcome]:
        conditions = {"user = ?": user, "function = ?": function}
        given = {text: storable(value) for text, value in conditions.items() if value is not None}
        if runs is not None:
            given[f"run {AMONG}"] = listed(runs)
        by = {"_of_run": runs, "_of_user": user, "_of_function": function}
        index = "blocks_unfinished" + next((name for name, value in by.items() if value is not None), "")
        where = " AND ".join([*given, "count > succeeded + failed + cancelled", "id > ?"])
        select = f"SELECT {OUTCOME} FROM blocks INDEXED BY {index} WHERE {where} ORDER BY id LIMIT ?"
        values = (*given.values(), storable(after), limit)
        rows = await self._reader.submit(lambda db: db.execute(select, values).fetchall())
        return [outcome_from(row) for row in rows]

    async def note_cancelled(self, ids: Sequence[str], *, now: float) -> None:
        insert = (
            "INSERT INTO cancellations (id, time) VALUES (?, ?) ON CONFLICT (id) DO UPDATE SET time = excluded.time"
        )
        await self._change(insert, [(storable(each), now) for each in ids])

    async def recently_cancelled(self, since: float, *, limit: int) -> list[str]:
        select = "SELECT id FROM cancellations WHERE time > ? ORDER BY time DESC LIMIT ?"
        rows = await self._reader.submit(lambda db: db.execute(select, (since, limit)).fetchall())
        return [row[0] for row in rows]

    async def forget_cancelled(self, before: float) -> None:
        await self._change("DELETE FROM cancellations WHERE time < ?", [(before,)], durable=False)

    async def _change(self, statement: str, rows: Sequence[Row], *, durable: bool = True) -> None:
        if rows:
            await self._writer.submit(lambda db: _execute_each(db, statement, rows), durable=durable)


def _execute_each(db: Connection, statement: str, rows: Sequence[Row]) -> None:
    db.executemany(statement, rows)


def _add_slice(db: Connection, each: DelayedSlice) -> bool:
    insert = (
        f"INSERT INTO delayed ({_INSERTED}, held) VALUES ({marks(_INSERTED)}, "
        "coalesce((SELECT paused FROM runs WHERE id = ?), 0)) ON CONFLICT (id) DO NOTHING"
    )
    return db.execute(insert, (*_slice_row(each), each.run)).rowcount == 1


def _planned(db: Connection, after: Mapping[str, int], limit: int) -> list[tuple[str, int, int]]:
    """Block, attempt and jobs of slices, as `planned_by_pages` takes them."""
    rows: list[Row] = []
    for block, attempt in sorted(after.items()):
        rows += db.execute(f"{_MADE} > ? ORDER BY attempt LIMIT ?", (block, attempt, limit - len(rows))).fetchall()
        if len(rows) >= limit:
            rows += db.execute(f"{_MADE} = ?", rows[-1][:2]).fetchall()
            break
    return [(block, attempt, bitmap.from_window(offset, made)) for block, attempt, offset, made in rows]


def _claim(db: Connection, now: float, limit: int, lease: float) -> list[DelayedSlice]:
    rows = db.execute(f"SELECT {DELAYED} {_DUE} AND leased_until <= ?1 ORDER BY due LIMIT ?2", (now, limit)).fetchall()
    db.executemany("UPDATE delayed SET leased_until = ? WHERE id = ?", [(now + lease, row[0]) for row in rows])
    return [slice_from(row) for row in rows]


def _has_waiting(db: Connection, block: str) -> bool:
    delayed = "SELECT 1 FROM delayed WHERE block = ?1 AND fired IS NULL"
    select = f"{delayed} UNION ALL SELECT 1 FROM leases WHERE block = ?1 LIMIT 1"
    return db.execute(select, (block,)).fetchone() is not None


def _release(db: Connection, jobs: Mapping[str, int]) -> None:
    for block, ended in jobs.items():
        found = db.execute("SELECT id, jobs FROM delayed WHERE block = ? AND fired IS NULL", (block,)).fetchall()
        for slice_id, waiting in found:
            left = bitmap.from_bytes(waiting) & ~ended
            db.execute(
                "UPDATE delayed SET jobs = ?, count = ? WHERE id = ?",
                (bitmap_bytes(left), left.bit_count(), slice_id),
            )
        held = db.execute("SELECT job FROM leases WHERE block = ?", (block,)).fetchall()
        over = [(block, job) for (job,) in held if ended >> job & 1]
        db.executemany("DELETE FROM leases WHERE block = ? AND job = ?", over)


def _slice_row(each: DelayedSlice) -> Row:
    return (
        each.id,
        each.block,
        each.run,
        each.user,
        each.function,
        each.due,
        bitmap_bytes(each.jobs),
        each.jobs.bit_count(),
        each.attempt,
        counts_to_text(each.kills),
        counts_to_text(each.fences),
        each.content_encoding,
        each.body,
        each.gated,
        bitmap_bytes(each.released),
        *bitmap.to_window(each.jobs),
    )


def bitmap_bytes(jobs: int) -> bytes:
    """A bitmap of jobs of a block whose size is not at hand."""
    return bitmap.to_bytes(jobs, jobs.bit_length())


def waiting_slices(db: Connection, block_id: str) -> list[DelayedSlice]:
    """The slices of a block that have not fired, by when they are due."""
    select = f"SELECT {DELAYED} FROM delayed WHERE block = ? AND fired IS NULL ORDER BY due"
    return [slice_from(row) for row in db.execute(select, (block_id,))]


def leases_of(db: Connection, block_ids: Sequence[str]) -> list[Lease]:
    """The leases of jobs of blocks."""
    select = f"SELECT {LEASE} FROM leases WHERE block {AMONG}"
    return [_lease_from(row) for row in db.execute(select, (listed(block_ids),))]


def slice_from(row: Row) -> DelayedSlice:
    """A slice from a row of DELAYED."""
    slice_id, block, run, user, function, due, jobs, _, attempt, kills, fences, content_encoding, body, *gate = row
    counts = counts_from_text(kills), counts_from_text(fences)
    jobs, gated, released = bitmap.from_bytes(jobs), bool(gate[0]), bitmap.from_bytes(gate[1])
    return DelayedSlice(
        slice_id, block, run, user, function, due, jobs, attempt, *counts, body, content_encoding, gated, released
    )


def _lease_row(lease: Lease) -> Row:
    return (
        storable(lease.block),
        lease.job,
        storable(lease.run),
        storable(lease.worker),
        lease.fence,
        lease.attempt,
        lease.expires,
        lease.lost,
    )


def _lease_from(row: Row) -> Lease:
    block, job, run, worker, fence, attempt, expires, lost = row
    return Lease(block, job, run, worker, fence, attempt, expires, bool(lost))
