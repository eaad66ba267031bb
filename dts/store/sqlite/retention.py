"""What a SQLite store does with runs that are kept for a time."""

from __future__ import annotations

from collections.abc import Sequence
from sqlite3 import Connection

from dts.embedded.thread import DatabaseThread
from dts.model import Run
from dts.store.abc import Store
from dts.store.contract.retention import LETTERS_AT_ONCE, RunNote
from dts.store.contract.shared import storable
from dts.store.sqlite.rows import RUN, Row, run_from

RETENTION_TABLES = """
CREATE TABLE run_notes (
    subject TEXT NOT NULL, run TEXT NOT NULL, finished REAL, jobs INTEGER NOT NULL, PRIMARY KEY (subject, run)
) STRICT, WITHOUT ROWID;
CREATE INDEX run_notes_finished ON run_notes (subject, finished, run) WHERE finished IS NOT NULL;
CREATE INDEX run_notes_unfinished ON run_notes (subject, run) WHERE finished IS NULL;
CREATE INDEX run_notes_by_run ON run_notes (run);
CREATE INDEX runs_by_function ON runs (function, id);
"""

_NOTE = "subject, run, finished, jobs"

# The indexes are named so that a change of theirs makes a statement fail, rather than read every run.
_RUNS = f"SELECT {RUN} FROM runs INDEXED BY {{}} WHERE {{}} = ? AND id > ? AND id < ? ORDER BY id LIMIT ?"
_NEXT_FUNCTION = """
    SELECT function FROM runs INDEXED BY runs_by_function WHERE function > ? AND function < ? ORDER BY function LIMIT 1
"""
_UNFINISHED = f"""
    SELECT {_NOTE} FROM run_notes INDEXED BY run_notes_unfinished
    WHERE subject = ? AND finished IS NULL AND run > ? ORDER BY run LIMIT ?
"""
_FINISHED = f"""
    SELECT {_NOTE} FROM run_notes INDEXED BY run_notes_finished
    WHERE subject = ? AND finished IS NOT NULL AND finished <= ? AND (finished, run) > (?, ?)
    ORDER BY finished, run LIMIT ?
"""
_LETTERS_OF_RUN = """
    SELECT id FROM dead_letters INDEXED BY dead_letters_by_run WHERE json_extract(headers, '$.run') = ? LIMIT ?
"""
_OLDEST_LETTERS = "SELECT id, died FROM dead_letters INDEXED BY dead_letters_by_time ORDER BY died LIMIT ?"


class SqliteRetentionStore(Store):
    """The part of a SQLite store that is about retention. Not a store by itself."""

    _writer: DatabaseThread
    _reader: DatabaseThread

    async def oldest_runs(
        self, *, user: str | None = None, function: str | None = None, after: str, before: str, limit: int
    ) -> list[Run]:
        which = ("runs_by_user", "user") if user is not None else ("runs_by_function", "function")
        values = (storable((user if user is not None else function) or ""), after, before, limit)
        return [run_from(row) for row in await self._read(_RUNS.format(*which), values)]

    async def functions_of_runs(self, namespace: str) -> list[str]:
        # What follows the slash comes before what follows the next character.
        name, end = f"{storable(namespace)}/", f"{storable(namespace)}0"
        found: list[str] = []
        while rows := await self._read(_NEXT_FUNCTION, (name, end)):
            name = rows[0][0]
            found.append(name)
        return found

    async def write_notes(self, notes: Sequence[RunNote]) -> None:
        rows = [(storable(note.subject), storable(note.run), note.finished, note.jobs) for note in notes]
        replace = f"INSERT OR REPLACE INTO run_notes ({_NOTE}) VALUES (?, ?, ?, ?)"
        await self._writer.submit(lambda db: _execute_each(db, replace, rows), durable=False)

    async def last_noted(self, subject: str) -> str:
        rows = await self._read("SELECT max(run) FROM run_notes WHERE subject = ?", (storable(subject),))
        return rows[0][0] or ""

    async def unfinished_notes(self, subject: str, *, limit: int, after: str = "") -> list[RunNote]:
        return [RunNote(*row) for row in await self._read(_UNFINISHED, (storable(subject), after, limit))]

    async def finished_notes(
        self, subject: str, *, until: float, limit: int, after: tuple[float, str] = (0.0, "")
    ) -> list[RunNote]:
        return [RunNote(*row) for row in await self._read(_FINISHED, (storable(subject), until, *after, limit))]

    async def delete_run(self, run_id: str, *, blocks: int) -> bool:
        return await self._writer.submit(lambda db: _delete_run(db, storable(run_id), blocks), durable=False)

    async def forget_dead_letters(self, *, before: float, keep: int, limit: int) -> int:
        return await self._writer.submit(lambda db: _forget_dead_letters(db, before, keep, limit), durable=False)

    async def _read(self, select: str, values: Row) -> list[Row]:
        return await self._reader.submit(lambda db: db.execute(select, values).fetchall())


def _execute_each(db: Connection, statement: str, rows: Sequence[Row]) -> None:
    db.executemany(statement, rows)


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
    db.execute("DELETE FROM run_notes WHERE run = ?", (run,))
    return True


def _forget_dead_letters(db: Connection, before: float, keep: int, limit: int) -> int:
    (count,) = db.execute("SELECT count(*) FROM dead_letters").fetchone()
    oldest = db.execute(_OLDEST_LETTERS, (limit,)).fetchall()
    over = [(key,) for place, (key, died) in enumerate(oldest) if died < before or place < count - keep]
    db.executemany("DELETE FROM dead_letters WHERE id = ?", over)
    return len(over)
