"""What a SQLite store does with runs that are kept for a time."""

from __future__ import annotations

from sqlite3 import Connection

from dts.embedded.thread import DatabaseThread
from dts.model import Run
from dts.store.abc import Store
from dts.store.contract.retention import LETTERS_AT_ONCE
from dts.store.contract.shared import storable
from dts.store.sqlite.rows import RUN, Row, run_from

# The indexes are named so that a change of theirs makes a statement fail, rather than read every run.
_NEXT_FUNCTION = """
    SELECT function FROM runs INDEXED BY runs_finished_of_function
    WHERE finished > 0 AND function > ? AND function < ? ORDER BY function LIMIT 1
"""
_NEXT_OPEN_FUNCTION = """
    SELECT function FROM runs INDEXED BY runs_open_of_function
    WHERE state = 'open' AND function > ? AND function < ? ORDER BY function LIMIT 1
"""
_EXPIRED = f"""
    SELECT {RUN} FROM runs INDEXED BY runs_finished_of_{{0}}
    WHERE {{0}} = ? AND finished > 0 AND finished < ? AND (finished, id) > (?, ?) ORDER BY finished, id LIMIT ?
"""
_IDLE = """
    SELECT id FROM runs INDEXED BY runs_open_of_{0}
    WHERE {0} = ?1 AND state = 'open' AND created < ?2
        AND NOT EXISTS (
            SELECT 1 FROM counts WHERE subject = 'run ' || runs.id AND total > succeeded + failed + cancelled
        )
        AND coalesce((SELECT created FROM blocks WHERE run = runs.id ORDER BY number DESC LIMIT 1), 0) < ?2
    ORDER BY id LIMIT ?3
"""
_LETTERS_OF_RUN = """
    SELECT id FROM dead_letters INDEXED BY dead_letters_by_run WHERE json_extract(headers, '$.run') = ? LIMIT ?
"""
_OLDEST_LETTERS = "SELECT id, died FROM dead_letters INDEXED BY dead_letters_by_time ORDER BY died LIMIT ?"


class SqliteRetentionStore(Store):
    """The part of a SQLite store that is about retention. Not a store by itself."""

    _writer: DatabaseThread
    _reader: DatabaseThread

    async def functions_of_runs(self, namespace: str) -> list[str]:
        # What follows the slash comes before what follows the next character.
        first, end = f"{storable(namespace)}/", f"{storable(namespace)}0"
        found: set[str] = set()
        for select in (_NEXT_FUNCTION, _NEXT_OPEN_FUNCTION):
            name = first
            while rows := await self._read(select, (name, end)):
                name = rows[0][0]
                found.add(name)
        return sorted(found)

    async def expired_runs(
        self,
        *,
        user: str | None = None,
        function: str | None = None,
        before: float,
        limit: int,
        after: tuple[float, str] = (0.0, ""),
    ) -> list[Run]:
        kind, name = _owner(user, function)
        return [run_from(row) for row in await self._read(_EXPIRED.format(kind), (name, before, *after, limit))]

    async def idle_runs(
        self, *, user: str | None = None, function: str | None = None, before: float, limit: int
    ) -> list[str]:
        kind, name = _owner(user, function)
        return [run for (run,) in await self._read(_IDLE.format(kind), (name, before, limit))]

    async def delete_run(self, run_id: str, *, blocks: int) -> bool:
        return await self._writer.submit(lambda db: _delete_run(db, storable(run_id), blocks), durable=False)

    async def forget_dead_letters(self, *, before: float, keep: int, limit: int) -> int:
        return await self._writer.submit(lambda db: _forget_dead_letters(db, before, keep, limit), durable=False)

    async def _read(self, select: str, values: Row) -> list[Row]:
        return await self._reader.submit(lambda db: db.execute(select, values).fetchall())


def _owner(user: str | None, function: str | None) -> tuple[str, str]:
    """Whose runs are meant: the name of the column, and what is in it."""
    return ("user", storable(user)) if user is not None else ("function", storable(function or ""))


def _delete_run(db: Connection, run: str, blocks: int) -> bool:
    letters = db.execute(_LETTERS_OF_RUN, (run, LETTERS_AT_ONCE)).fetchall()
    db.executemany("DELETE FROM dead_letters WHERE id = ?", letters)
    if len(letters) == LETTERS_AT_ONCE:
        return False
    keys = db.execute("SELECT key FROM blocks WHERE run = ? ORDER BY number LIMIT ?", (run, blocks + 1)).fetchall()
    for statement in (
        "DELETE FROM parts WHERE block = ?",
        "DELETE FROM bodies WHERE block = ?",
        "DELETE FROM blocks WHERE key = ?",
    ):
        db.executemany(statement, keys[:blocks])
    if len(keys) > blocks:
        return False
    db.execute("DELETE FROM runs WHERE id = ?", (run,))
    return True


def _forget_dead_letters(db: Connection, before: float, keep: int, limit: int) -> int:
    (count,) = db.execute("SELECT count(*) FROM dead_letters").fetchone()
    oldest = db.execute(_OLDEST_LETTERS, (limit,)).fetchall()
    over = [(key,) for place, (key, died) in enumerate(oldest) if died < before or place < count - keep]
    db.executemany("DELETE FROM dead_letters WHERE id = ?", over)
    return len(over)
