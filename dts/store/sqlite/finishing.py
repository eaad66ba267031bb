"""When runs finish, written by triggers in the transaction that ends a run's last job, or closes the run."""

from __future__ import annotations

from collections.abc import Sequence

from dts.embedded.thread import DatabaseThread
from dts.model import Run
from dts.store.abc import Store
from dts.store.sqlite.rows import AMONG, RUN, Row, listed, run_from

# Not unixepoch('subsec'): the SQLite of Debian 12 has no such thing.
_NOW = "(julianday('now') - 2440587.5) * 86400.0"
_HAVE_ENDED = "total = succeeded + failed + cancelled"
_FINISHES = f"""
    UPDATE runs SET (finished, succeeded, failed, cancelled) = (
        SELECT max(created, {_NOW}), coalesce(sum(counts.succeeded), 0), coalesce(sum(counts.failed), 0),
            coalesce(sum(counts.cancelled), 0)
        FROM counts WHERE subject = 'run ' || runs.id
    ) WHERE state <> 'open' AND finished = 0
        AND NOT EXISTS (SELECT 1 FROM counts WHERE subject = 'run ' || runs.id AND NOT {_HAVE_ENDED})"""

FINISHING_INDEXES = """
CREATE INDEX runs_finished ON runs (finished, id) WHERE finished > 0;
CREATE INDEX runs_finished_of_user ON runs (user, finished, id) WHERE finished > 0;
CREATE INDEX runs_finished_of_function ON runs (function, finished, id) WHERE finished > 0;
CREATE INDEX runs_to_follow_up ON runs (finished, id) WHERE finished > 0 AND follow_up;
CREATE INDEX runs_open_of_user ON runs (user, id) WHERE state = 'open';
CREATE INDEX runs_open_of_function ON runs (function, id) WHERE state = 'open';
"""

FINISHING_TRIGGERS = f"""
CREATE TRIGGER finished_with_last_job AFTER UPDATE ON counts
WHEN NEW.subject > 'run ' AND NEW.subject < 'run!' AND NEW.total > 0
    AND NEW.total = NEW.succeeded + NEW.failed + NEW.cancelled
BEGIN {_FINISHES} AND id = substr(NEW.subject, 5); END;
CREATE TRIGGER finished_when_closed AFTER UPDATE OF state ON runs WHEN NEW.state <> OLD.state
BEGIN {_FINISHES} AND id = NEW.id; END;
"""

FINISH_WHAT_IS_THERE = _FINISHES
"""Finishes the runs of a file of an earlier version."""

_FINISHED = f"""
    SELECT {RUN} FROM runs INDEXED BY runs_finished
    WHERE finished > 0 AND (finished, id) > (?, ?) ORDER BY finished, id LIMIT ?
"""
_TO_FOLLOW_UP = f"""
    SELECT {RUN} FROM runs INDEXED BY runs_to_follow_up
    WHERE finished > 0 AND follow_up AND (finished, id) > (?, ?) ORDER BY finished, id LIMIT ?
"""


class SqliteFinishingStore(Store):
    """The part of a SQLite store that is about finished runs. Not a store by itself."""

    _writer: DatabaseThread
    _reader: DatabaseThread

    async def finish_runs(self, run_ids: Sequence[str]) -> list[str]:
        return []  # triggers have done it

    async def finish_left_runs(self, *, after: str, limit: int) -> tuple[list[str], str]:
        return [], ""

    async def finished_runs(self, *, after: tuple[float, str] = (0.0, ""), limit: int) -> list[Run]:
        return await self._runs(_FINISHED, (*after, limit))

    async def runs_to_follow_up(self, *, after: tuple[float, str] = (0.0, ""), limit: int) -> list[Run]:
        return await self._runs(_TO_FOLLOW_UP, (*after, limit))

    async def note_followed_up(self, run_ids: Sequence[str]) -> None:
        update, ids = f"UPDATE runs SET follow_up = 0 WHERE finished > 0 AND id {AMONG}", listed(run_ids)
        await self._writer.submit(lambda db: db.execute(update, (ids,)).rowcount)

    async def _runs(self, select: str, values: Row) -> list[Run]:
        rows = await self._reader.submit(lambda db: db.execute(select, values).fetchall())
        return [run_from(row) for row in rows]
