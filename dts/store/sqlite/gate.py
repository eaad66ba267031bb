"""What a SQLite store does for limits: gated slices, who holds what, rates."""

from __future__ import annotations

import time
from collections.abc import Sequence
from sqlite3 import Connection

from dts.embedded.thread import DatabaseThread
from dts.model import DelayedSlice
from dts.store.abc import Store
from dts.store.contract.gate import GatedGroup, Release
from dts.store.contract.shared import storable, turn
from dts.store.sqlite.rows import AMONG, Row, listed
from dts.store.sqlite.waiting import DELAYED, FINISH, bitmap_bytes, slice_from

TURNS = """
CREATE TABLE turns (subject TEXT PRIMARY KEY, due INTEGER NOT NULL) STRICT, WITHOUT ROWID;
CREATE INDEX turns_by_time ON turns (due);
"""

_GATED = "fired IS NULL AND gated"

_GROUPS = f"""
    SELECT user, function, min(due) FROM delayed INDEXED BY delayed_gated WHERE {_GATED} GROUP BY user, function
"""
_LIST = f"""
    SELECT {DELAYED} FROM delayed INDEXED BY delayed_gated
    WHERE {_GATED} AND user = ? AND function = ? AND held = 0 ORDER BY due LIMIT ?
"""
_RELEASE = f"UPDATE delayed SET jobs = ?, count = ?, released = ? WHERE id = ? AND {_GATED} AND jobs = ?"

_IN_FLIGHT = """
    SELECT id, count - succeeded - failed - cancelled - (
        SELECT coalesce(sum(delayed.count), 0) FROM delayed WHERE delayed.block = blocks.id AND fired IS NULL
    ) AS flying
    FROM blocks {} WHERE flying > 0 AND count > succeeded + failed + cancelled AND published
"""

_HOLD = """
    INSERT INTO holders (name, holder, until) VALUES (?1, ?2, ?4) ON CONFLICT (name) DO UPDATE SET
        holder = iif(holder = ?2 OR until <= ?3, ?2, holder),
        until = iif(holder = ?2 OR until <= ?3, ?4, min(until, ?4))
    RETURNING holder
"""


class SqliteGateStore(Store):
    """The part of a SQLite store that is about limits. Not a store by itself."""

    _writer: DatabaseThread
    _reader: DatabaseThread
    _nonces: DatabaseThread

    async def gate_delayed(self, ids: Sequence[str], *, due: float) -> None:
        rows = [(due, each) for each in ids]
        update = "UPDATE delayed SET gated = 1, due = ? WHERE id = ? AND fired IS NULL"
        await self._writer.submit(lambda db: _execute_each(db, update, rows))

    async def reorder_gated(self, run_id: str, function: str, *, due: float) -> None:
        update = f"UPDATE delayed SET due = ? WHERE run = ? AND function = ? AND {_GATED}"
        row = due, storable(run_id), storable(function)
        await self._writer.submit(lambda db: _execute_each(db, update, [row]), durable=False)

    async def gated_groups(self) -> list[GatedGroup]:
        rows = await self._reader.submit(lambda db: db.execute(_GROUPS).fetchall())
        return [GatedGroup(*row) for row in rows]

    async def list_gated(self, user: str, function: str, *, limit: int) -> list[DelayedSlice]:
        values = (storable(user), storable(function), limit)
        rows = await self._reader.submit(lambda db: db.execute(_LIST, values).fetchall())
        return [slice_from(row) for row in rows]

    async def list_released(self, *, limit: int) -> list[DelayedSlice]:
        select = f"SELECT {DELAYED} FROM delayed INDEXED BY delayed_gated WHERE {_GATED} AND released <> x'' LIMIT ?"
        rows = await self._reader.submit(lambda db: db.execute(select, (limit,)).fetchall())
        return [slice_from(row) for row in rows]

    async def release_gated(self, releases: Sequence[Release]) -> list[bool]:
        rows = [_release_row(each) for each in releases]
        return await self._writer.submit(
            lambda db: [db.execute(_RELEASE, row).rowcount == 1 for row in rows], durable=False
        )

    async def confirm_released(self, ids: Sequence[str], *, now: float) -> None:
        await self._writer.submit(lambda db: _confirm(db, ids, now), durable=False)

    async def jobs_in_flight(
        self,
        *,
        user: str | None = None,
        function: str | None = None,
        namespace: str | None = None,
        blocks: Sequence[str] | None = None,
    ) -> dict[str, int]:
        conditions = {"user = ?": user, "function = ?": function}
        if namespace is not None:  # what follows the slash comes before what follows the next character
            conditions |= {"function >= ?": f"{namespace}/", "function < ?": f"{namespace}0"}
        given = {text: storable(value) for text, value in conditions.items() if value is not None}
        values = list(given.values())
        select = " AND ".join([_IN_FLIGHT.format("INDEXED BY blocks_unfinished"), *given])
        if blocks is not None:
            among = [*(f"+{text}" for text in given), f"id {AMONG}"]  # by id, that is
            select = " AND ".join([_IN_FLIGHT.format(""), *among])
            values.append(listed(blocks))
        return dict(await self._reader.submit(lambda db: db.execute(select, values).fetchall()))

    async def acquire(self, name: str, holder: str, *, seconds: float) -> bool:
        return await self._writer.submit(lambda db: _acquire(db, name, holder, seconds), durable=False)

    async def release(self, name: str, holder: str) -> None:
        delete = "DELETE FROM holders WHERE name = ? AND holder = ?"
        await self._writer.submit(lambda db: db.execute(delete, (name, holder)), durable=False)

    async def take_token(self, subject: str, *, rate: float) -> float:
        key = storable(subject)
        return await self._nonces.submit(lambda db: _take_token(db, key, rate), durable=False)


def _execute_each(db: Connection, statement: str, rows: Sequence[Row]) -> None:
    db.executemany(statement, rows)


def _release_row(each: Release) -> Row:
    released = each.slice.released | each.jobs
    jobs = bitmap_bytes(each.left), each.left.bit_count(), bitmap_bytes(released)
    return (*jobs, each.slice.id, bitmap_bytes(each.slice.jobs))


def _confirm(db: Connection, ids: Sequence[str], now: float) -> None:
    db.executemany(f"UPDATE delayed SET released = x'' WHERE id = ? AND {_GATED}", [(each,) for each in ids])
    db.executemany(f"{FINISH} WHERE id = ? AND {_GATED} AND count = 0", [(now, each) for each in ids])


def _acquire(db: Connection, name: str, holder: str, seconds: float) -> bool:
    now = time.time()  # under the lock: before it, it may be earlier than what another has written meanwhile
    (held_by,) = db.execute(_HOLD, (name, holder, now, now + seconds)).fetchone()
    return bool(held_by == holder)


def _take_token(db: Connection, subject: str, rate: float) -> float:
    now = time.time_ns()
    db.execute("DELETE FROM turns WHERE due <= ?", (now,))
    row = db.execute("SELECT due FROM turns WHERE subject = ?", (subject,)).fetchone()
    due, wait = turn(row[0] if row else now, now, rate)
    db.execute("INSERT OR REPLACE INTO turns (subject, due) VALUES (?, ?)", (subject, due))
    return wait
