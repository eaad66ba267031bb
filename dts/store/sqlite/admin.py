"""What a SQLite store does with the records of administrators, the operation log and dead letters' end."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from dataclasses import replace
from sqlite3 import Connection, IntegrityError
from typing import Any

from dts.embedded.thread import DatabaseThread
from dts.errors import DuplicateKey, LastAdministrator, LogDamaged
from dts.model import ADMINISTRATOR, LAST_OPERATION, KeptOperation, Operation, Record, Seal, User
from dts.store.abc import Store
from dts.store.contract.records import (
    LISTS,
    NO_ENTRY,
    NO_NUMBER_LEFT,
    TABLES,
    R,
    Where,
    from_json,
    last_administrator,
    ops_from_text,
    ops_to_text,
    taken,
    to_json,
)
from dts.store.contract.shared import storable
from dts.store.sqlite.counts import unfinished_jobs
from dts.store.sqlite.rows import AMONG, Row, listed, marks

OPERATION = "seq, timestamp, operator, address, op_type, doc_id, ops, outcome, begun, previous, hash"

_TEXTS = frozenset({"operator", "address", "op_type", "doc_id", "ops", "outcome", "previous", "hash"})

_READ = ", ".join(f"CAST({name} AS BLOB)" if name in _TEXTS else name for name in OPERATION.split(", "))
"""The columns of OPERATION; texts as bytes, since Python reads no row with one that is not UTF-8."""

_INDEXED = ("doc_id", "operator", "op_type")
"""The fields of operations with an index, those first of whose values there are the fewest entries each."""

_KEPT_AT_ONCE = 500

_STRAYS = 100

_OTHER_ADMINISTRATOR = """
    SELECT 1 FROM users WHERE id <> ? AND NOT json_extract(data, '$.disabled')
        AND EXISTS (SELECT 1 FROM json_each(data, '$.roles') WHERE value = ?) LIMIT 1
"""


class SqliteAdminStore(Store):
    """The part of a SQLite store that is about administration. Not a store by itself."""

    _writer: DatabaseThread
    _reader: DatabaseThread

    # records

    async def add_record(self, record: Record) -> None:
        values = storable(record.id), record.version, to_json(record)
        insert = f"INSERT INTO {TABLES[type(record)]} (id, version, data) VALUES (?, ?, ?)"
        try:
            await self._writer.submit(lambda db: _execute(db, insert, *values))
        except IntegrityError as error:
            raise DuplicateKey(taken(record)) from error

    async def get_record(self, kind: type[R], record_id: str) -> R | None:
        select, key = f"SELECT data FROM {TABLES[kind]} WHERE id = ?", storable(record_id)
        row: Row | None = await self._reader.submit(lambda db: db.execute(select, (key,)).fetchone())
        return from_json(kind, row[0]) if row else None

    async def list_records(
        self, kind: type[R], *, where: Where | None = None, limit: int | None = 100, after: str | None = None
    ) -> list[R]:
        conditions, values = _conditions(where or {})
        if after is not None:
            conditions.append("id > ?")
            values.append(storable(after))
        text = " AND ".join(conditions) or "1"
        select = f"SELECT data FROM {TABLES[kind]} WHERE {text} ORDER BY id LIMIT ?"
        values.append(-1 if limit is None else limit)
        rows = await self._reader.submit(lambda db: db.execute(select, values).fetchall())
        return [from_json(kind, row[0]) for row in rows]

    async def replace_record(self, record: Record, *, version: int) -> bool:
        return await self._writer.submit(lambda db: _replace(db, record, version))

    async def delete_record(self, kind: type[Record], record_id: str, *, version: int) -> bool:
        return await self._writer.submit(lambda db: _delete(db, kind, storable(record_id), version))

    async def list_seeded(self) -> frozenset[str]:
        rows = await self._reader.submit(lambda db: db.execute("SELECT name FROM seeded").fetchall())
        return frozenset(name for (name,) in rows)

    async def note_seeded(self, names: Iterable[str]) -> None:
        rows = [(storable(name),) for name in names]
        insert = "INSERT INTO seeded (name) VALUES (?) ON CONFLICT DO NOTHING"
        await self._writer.submit(lambda db: _execute_each(db, insert, rows))

    async def set_speeds(self, speeds: Mapping[str, tuple[float, bool]]) -> None:
        values = [(mean, "true" if many else "false", storable(name)) for name, (mean, many) in speeds.items()]
        update = (
            "UPDATE functions SET data = json_set(data, '$.mean_duration', ?, '$.concurrent', json(?)) WHERE id = ?"
        )
        await self._writer.submit(lambda db: _execute_each(db, update, values), durable=False)

    async def count_unfinished(
        self, *, user: str | None = None, function: str | None = None, namespace: str | None = None
    ) -> int:
        values = [storable(each) if each is not None else None for each in (user, function, namespace)]
        return await self._reader.submit(lambda db: _count_unfinished(db, *values))

    # operations

    async def append_operation(self, operation: Operation, seal: Seal) -> Operation:
        return await self._writer.submit(lambda db: _append(db, operation, seal))

    async def list_operations(
        self, *, where: Where | None = None, limit: int = 100, after: int | None = None, newest_first: bool = True
    ) -> list[Operation]:
        select, values = _select_operations(where or {}, limit, after, newest_first=newest_first)
        rows = await self._reader.submit(lambda db: db.execute(select, values).fetchall())
        return [_operation_from(row) for row in rows]

    async def kept_operations(self) -> AsyncIterator[KeptOperation]:
        entries = await self.list_operations(limit=_KEPT_AT_ONCE, newest_first=False)
        while entries:
            for entry in entries:
                yield KeptOperation(entry.seq, entry)
            entries = await self.list_operations(limit=_KEPT_AT_ONCE, after=entries[-1].seq, newest_first=False)
        select = "SELECT seq FROM operations WHERE seq < 1 OR seq > ? LIMIT ?"
        strays = await self._reader.submit(lambda db: db.execute(select, (LAST_OPERATION, _STRAYS)).fetchall())
        for (seq,) in strays:
            yield KeptOperation(seq, None, f"its number is that of {NO_ENTRY}")

    async def operations_head(self) -> tuple[int, str]:
        head: tuple[int, str] = await self._reader.submit(_head)
        return head

    # dead letters

    async def delete_dead_letters(self, letter_ids: Sequence[str]) -> None:
        keys = [(storable(each),) for each in letter_ids]
        await self._writer.submit(lambda db: _execute_each(db, "DELETE FROM dead_letters WHERE id = ?", keys))


def _execute(db: Connection, statement: str, *values: object) -> None:
    db.execute(statement, values)


def _execute_each(db: Connection, statement: str, rows: Sequence[Row]) -> None:
    db.executemany(statement, rows)


def _conditions(where: Where) -> tuple[list[str], list[Any]]:
    """SQL and its values for records that match. Names are the server's own.

    What holds one value comes first: to look into a list costs ten times as much.
    """
    conditions: list[str] = []
    values: list[Any] = []
    for field in sorted(where, key=lambda field: field in LISTS):
        several = value if isinstance(value := where[field], tuple) else (value,)
        if field in LISTS:
            conditions.append(f"EXISTS (SELECT 1 FROM json_each(data, '$.{field}') AS has WHERE has.value {AMONG})")
        else:
            conditions.append(f"json_extract(data, '$.{field}') {AMONG}")
        values.append(listed(several))
    return conditions, values


def _replace(db: Connection, record: Record, version: int) -> bool:
    if isinstance(record, User) and not record.is_administrator:
        _keep_an_administrator(db, record.id, version)
    updated = db.execute(
        f"UPDATE {TABLES[type(record)]} SET version = ?, data = ? WHERE id = ? AND version = ?",
        (record.version, to_json(record), storable(record.id), version),
    )
    return updated.rowcount == 1


def _delete(db: Connection, kind: type[Record], key: str, version: int) -> bool:
    if kind is User:
        _keep_an_administrator(db, key, version)
    return db.execute(f"DELETE FROM {TABLES[kind]} WHERE id = ? AND version = ?", (key, version)).rowcount == 1


def _keep_an_administrator(db: Connection, key: str, version: int) -> None:
    """Make sure that somebody else is an administrator if this user is one now."""
    row = db.execute("SELECT data FROM users WHERE id = ? AND version = ?", (key, version)).fetchone()
    if row is None or not from_json(User, row[0]).is_administrator:
        return
    if db.execute(_OTHER_ADMINISTRATOR, (key, ADMINISTRATOR)).fetchone() is None:
        raise LastAdministrator(last_administrator(key))


def _count_unfinished(db: Connection, user: str | None, function: str | None, namespace: str | None) -> int:
    if user is not None and function is None and namespace is None:
        return unfinished_jobs(db, user)
    conditions: list[str] = ["count > succeeded + failed + cancelled"]
    values: list[str] = []
    if user is not None:
        conditions.append("user = ?")
        values.append(user)
    if function is not None:
        conditions.append("function = ?")
        values.append(function)
    if namespace is not None:
        conditions.append("function >= ? AND function < ?")
        values += [namespace + "/", namespace + "0"]  # the character after the slash
    (count,) = db.execute(
        "SELECT coalesce(sum(count - succeeded - failed - cancelled), 0) FROM blocks INDEXED BY blocks_unfinished "
        f"WHERE {' AND '.join(conditions)}",
        values,
    ).fetchone()
    return int(count)


def _head(db: Connection) -> tuple[int, str]:
    row = db.execute("SELECT seq, CAST(hash AS BLOB) FROM operations_head WHERE one = 1").fetchone()
    return (row[0], _text(row[1])) if row and 1 <= row[0] <= LAST_OPERATION else (0, "")


def _append(db: Connection, operation: Operation, seal: Seal) -> Operation:
    seq, previous = _head(db)
    select = "SELECT seq, CAST(hash AS BLOB) FROM operations WHERE seq BETWEEN 1 AND ? ORDER BY seq DESC LIMIT 1"
    last = db.execute(select, (LAST_OPERATION,)).fetchone()
    if last and last[0] > seq:  # somebody has meddled with the head; the log goes on all the same
        seq, previous = last[0], _text(last[1])
    if seq == LAST_OPERATION:
        raise LogDamaged(NO_NUMBER_LEFT)
    entry = replace(operation, seq=seq + 1, previous=previous)
    entry = replace(entry, hash=seal(entry))
    row = (
        entry.seq,
        entry.timestamp,
        entry.operator,
        entry.address,
        entry.op_type,
        storable(entry.doc_id),
        ops_to_text(entry),
        entry.outcome,
        entry.begun,
        entry.previous,
        entry.hash,
    )
    db.execute(f"INSERT INTO operations ({OPERATION}) VALUES ({marks(OPERATION)})", row)
    db.execute("INSERT OR REPLACE INTO operations_head (one, seq, hash) VALUES (1, ?, ?)", (entry.seq, entry.hash))
    return entry


def _select_operations(where: Where, limit: int, after: int | None, *, newest_first: bool) -> tuple[str, list[Any]]:
    """SQL and its values for entries of the operation log."""
    best = next((field for field in _INDEXED if field in where), "")
    # Where several have an index SQLite takes any; a plus keeps it from those with more entries of a value.
    conditions = [f"{field} = ?" if field == best else f"+{field} = ?" for field in where]
    values: list[Any] = [storable(value) if isinstance(value, str) else value for value in where.values()]
    if after is not None:
        conditions.append("seq < ?" if newest_first else "seq > ?")
        values.append(after)
    conditions.append("seq BETWEEN 1 AND ?")
    order = "DESC" if newest_first else "ASC"
    select = f"SELECT {_READ} FROM operations WHERE {' AND '.join(conditions)} ORDER BY seq {order} LIMIT ?"
    return select, [*values, LAST_OPERATION, limit]


def _operation_from(row: Row) -> Operation:
    plain: Row = tuple(_text(value) if isinstance(value, bytes) else value for value in row)
    seq, timestamp, operator, address, op_type, doc_id, ops, outcome, begun, previous, digest = plain
    return Operation(
        timestamp, operator, address, op_type, doc_id, ops_from_text(ops), outcome, begun, seq, previous, digest
    )


def _text(value: bytes) -> str:
    """Text as it was stored, whatever somebody has put there: then it is not what its hash was made of."""
    return value.decode("utf-8", "backslashreplace")
