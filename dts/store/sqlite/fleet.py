"""What a SQLite store does with heartbeats and log entries."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple
from sqlite3 import Connection

import msgspec

from dts.embedded.thread import DatabaseThread
from dts.model import LogEntry, LogFilter, WorkerState
from dts.store.abc import Store
from dts.store.contract.shared import log_conditions, storable, storable_entry
from dts.store.sqlite.rows import Row, marks

FLEET_TABLES = """
CREATE TABLE heartbeats (
    worker TEXT PRIMARY KEY, host TEXT NOT NULL, time REAL NOT NULL, data BLOB NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE logs (
    id TEXT PRIMARY KEY, host TEXT NOT NULL, source TEXT NOT NULL, time REAL NOT NULL, level INTEGER NOT NULL,
    logger TEXT NOT NULL, message TEXT NOT NULL, job TEXT NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX logs_by_job ON logs (job, id) WHERE job <> '';
CREATE INDEX logs_by_level ON logs (level, id);
"""

LOG = "id, host, source, time, level, logger, message, job"

_SAVE = """
    INSERT INTO heartbeats (worker, host, time, data) VALUES (?, ?, ?, ?)
    ON CONFLICT (worker) DO UPDATE SET host = excluded.host, time = excluded.time, data = excluded.data
    WHERE excluded.time > time
"""


class SqliteFleetStore(Store):
    """The part of a SQLite store that is about the fleet. Not a store by itself."""

    _writer: DatabaseThread
    _reader: DatabaseThread

    async def save_heartbeats(self, states: Sequence[WorkerState]) -> None:
        rows = [(storable(each.worker), storable(each.host), each.time, msgspec.json.encode(each)) for each in states]
        await self._writer.submit(lambda db: _execute_each(db, _SAVE, rows), durable=False)

    async def list_heartbeats(self, *, since: float = 0.0) -> list[WorkerState]:
        select = "SELECT data FROM heartbeats WHERE time > ? ORDER BY host, worker"
        rows = await self._reader.submit(lambda db: db.execute(select, (since,)).fetchall())
        return [msgspec.json.decode(row[0], type=WorkerState) for row in rows]

    async def drop_heartbeats(self, before: float) -> int:
        delete = "DELETE FROM heartbeats WHERE time < ?"
        return await self._writer.submit(lambda db: db.execute(delete, (before,)).rowcount, durable=False)

    async def add_logs(self, entries: Sequence[LogEntry]) -> None:
        insert = f"INSERT INTO logs ({LOG}) VALUES ({marks(LOG)}) ON CONFLICT DO NOTHING"
        rows = [astuple(storable_entry(entry)) for entry in entries]
        await self._writer.submit(lambda db: _execute_each(db, insert, rows), durable=False)

    async def list_logs(
        self, which: LogFilter | None = None, *, limit: int = 100, after: str | None = None
    ) -> list[LogEntry]:
        conditions = log_conditions(which, after)
        where = " AND ".join(f"{field} {sign} ?" for field, sign, _ in conditions) or "1"
        select = f"SELECT {LOG} FROM logs WHERE {where} ORDER BY id DESC LIMIT ?"
        values = [*(value for _, _, value in conditions), limit]
        return [LogEntry(*row) for row in await self._reader.submit(lambda db: db.execute(select, values).fetchall())]

    async def prune_logs(self, *, before: float, keep: int) -> int:
        return await self._writer.submit(lambda db: _prune(db, before, keep), durable=False)


def _execute_each(db: Connection, statement: str, rows: Sequence[Row]) -> None:
    db.executemany(statement, rows)


def _prune(db: Connection, before: float, keep: int) -> int:
    old = db.execute("DELETE FROM logs WHERE time < ?", (before,)).rowcount
    beyond = "DELETE FROM logs WHERE id IN (SELECT id FROM logs ORDER BY id DESC LIMIT -1 OFFSET ?)"
    return old + db.execute(beyond, (keep,)).rowcount
