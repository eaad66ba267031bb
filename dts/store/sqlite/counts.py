"""How many jobs of a user and of a run are in which state, kept by triggers in the transaction that changes a block.

A row of `counts` belongs to a user or to a run, as its `subject` says. Whatever writes a block or a delayed slice, the
triggers add what it changed: no statement can forget it, and no answer has to add up blocks.
"""

from __future__ import annotations

from sqlite3 import Connection

from dts.model import Statistics

STATES = ("total", "accepted", "running", "succeeded", "failed", "cancelled", "delayed")


def _of_block(row: str) -> dict[str, str]:
    """What a block adds to each count, in SQL; `row` is a prefix such as `NEW.`."""
    left = f"{row}count - {row}succeeded - {row}failed - {row}cancelled - {row}at_work"
    unpublished = f"iif({row}published, 0, max(0, {left}))"
    return {
        "total": f"{row}count",
        "accepted": f"iif({row}not_before, 0, {unpublished})",
        "running": f"{row}at_work",
        "succeeded": f"{row}succeeded",
        "failed": f"{row}failed",
        "cancelled": f"{row}cancelled",
        "delayed": f"iif({row}not_before, {unpublished}, 0)",
    }


def _waiting(row: str) -> str:
    """What a delayed slice adds to the jobs that are delayed, in SQL."""
    return f"iif({row}fired IS NULL, {row}count, 0)"


def _add(subject: str, amounts: dict[str, str]) -> str:
    """SQL that adds to the counts of a subject."""
    changes = ", ".join(f"{name} = {name} + excluded.{name}" for name in amounts)
    return (
        f"INSERT INTO counts (subject, {', '.join(amounts)}) VALUES ({subject}, {', '.join(amounts.values())}) "
        f"ON CONFLICT (subject) DO UPDATE SET {changes};"
    )


def _change(amounts: dict[str, str]) -> str:
    """SQL that adds to the counts of a user and of a run that have a row."""
    changes = ", ".join(f"{name} = {name} + {amount}" for name, amount in amounts.items())
    return f"UPDATE counts SET {changes} WHERE subject IN ('user ' || OLD.user, 'run ' || OLD.run);"


def _less(amounts: dict[str, str], subtracted: dict[str, str]) -> dict[str, str]:
    return {name: f"{amount} - ({subtracted[name]})" for name, amount in amounts.items()}


def _negative(amounts: dict[str, str]) -> dict[str, str]:
    return {name: f"-({amount})" for name, amount in amounts.items()}


_COLUMNS = ", ".join(f"{name} INTEGER NOT NULL DEFAULT 0" for name in STATES)
_NEW, _OLD = _of_block("NEW."), _of_block("OLD.")
_NEW_SLICE, _OLD_SLICE = {"delayed": _waiting("NEW.")}, {"delayed": _waiting("OLD.")}

COUNTS = f"CREATE TABLE counts (subject TEXT PRIMARY KEY, {_COLUMNS}) STRICT, WITHOUT ROWID"

COUNT_TRIGGERS = f"""
CREATE TRIGGER counts_of_new_block AFTER INSERT ON blocks BEGIN
    {_add("'user ' || NEW.user", _NEW)} {_add("'run ' || NEW.run", _NEW)}
END;
CREATE TRIGGER counts_of_block AFTER UPDATE OF published, succeeded, failed, cancelled, at_work ON blocks BEGIN
    {_change(_less(_NEW, _OLD))}
END;
CREATE TRIGGER counts_of_deleted_block AFTER DELETE ON blocks BEGIN {_change(_negative(_OLD))} END;
CREATE TRIGGER counts_of_new_slice AFTER INSERT ON delayed BEGIN
    {_add("'user ' || NEW.user", _NEW_SLICE)} {_add("'run ' || NEW.run", _NEW_SLICE)}
END;
CREATE TRIGGER counts_of_slice AFTER UPDATE OF count, fired ON delayed BEGIN
    {_change(_less(_NEW_SLICE, _OLD_SLICE))}
END;
CREATE TRIGGER counts_of_deleted_slice AFTER DELETE ON delayed BEGIN {_change(_negative(_OLD_SLICE))} END;
CREATE TRIGGER counts_of_deleted_run AFTER DELETE ON runs BEGIN
    DELETE FROM counts WHERE subject = 'run ' || OLD.id;
END
"""


def _added_up(kind: str) -> str:
    """SQL that adds up what is there already, of all users or of all runs."""
    blocks = ", ".join(f"sum({amount})" for amount in _of_block("").values())
    return f"""
        INSERT INTO counts (subject, {", ".join(STATES)})
            SELECT '{kind} ' || {kind}, {blocks} FROM blocks GROUP BY {kind};
        INSERT INTO counts (subject, delayed)
            SELECT '{kind} ' || {kind}, sum({_waiting("")}) FROM delayed WHERE true GROUP BY {kind}
            ON CONFLICT (subject) DO UPDATE SET delayed = delayed + excluded.delayed
    """


COUNT_WHAT_IS_THERE = f"{COUNTS}; {_added_up('user')}; {_added_up('run')}"
"""Makes the table for a file of an earlier version."""


def run_statistics(db: Connection, run_id: str) -> Statistics:
    """The states of a run's jobs."""
    return _statistics(db, f"run {run_id}")


def user_statistics(db: Connection, user: str) -> Statistics:
    """The states of a user's jobs."""
    return _statistics(db, f"user {user}")


def unfinished_jobs(db: Connection, user: str) -> int:
    """How many jobs of a user have not ended."""
    statistics = user_statistics(db, user)
    return statistics.total - statistics.ended


def _statistics(db: Connection, subject: str) -> Statistics:
    row = db.execute(f"SELECT {', '.join(STATES)} FROM counts WHERE subject = ?", (subject,)).fetchone()
    return Statistics(*row) if row else Statistics()
