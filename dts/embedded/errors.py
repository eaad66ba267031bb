"""What an error of SQLite means: whose fault it is, and what an operator can do about it."""

from __future__ import annotations

import errno
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from dts.errors import ConfigError, DtsError, NotStorable
from dts.runtime.backoff import Backoff

T = TypeVar("T")

LOCK_TIMEOUT = 4.0
"""Seconds to wait for other processes to release the file, before it counts as unavailable."""

_SHORTEST_WAIT = 0.0002  # seconds between tries for the lock: a transaction of another process takes about 1 ms
_LONGEST_WAIT = 0.004

_OF_THE_CALL = frozenset(
    {
        0,  # Python's module itself: a value that cannot be bound
        sqlite3.SQLITE_ERROR,
        sqlite3.SQLITE_INTERNAL,
        sqlite3.SQLITE_TOOBIG,
        sqlite3.SQLITE_CONSTRAINT,
        sqlite3.SQLITE_MISMATCH,
        sqlite3.SQLITE_MISUSE,
        sqlite3.SQLITE_RANGE,
    }
)
"""Primary result codes of the call: a bug, or what it was given. All others are of the file or its disk."""

_KEYS = frozenset(
    {sqlite3.SQLITE_CONSTRAINT_PRIMARYKEY, sqlite3.SQLITE_CONSTRAINT_ROWID, sqlite3.SQLITE_CONSTRAINT_UNIQUE}
)

_WRONG = (sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM, sqlite3.SQLITE_CANTOPEN)
"""Primary result codes of a file that will never work as it is."""

_PASSING = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EMFILE, errno.ENFILE, errno.EAGAIN)

_EXPLANATIONS = {
    sqlite3.SQLITE_BUSY: "another process is writing to it all the time, or was stopped while it wrote",
    sqlite3.SQLITE_FULL: "its disk is full",
    sqlite3.SQLITE_READONLY: "it may not be written by this user",
    sqlite3.SQLITE_CANTOPEN: "it cannot be opened; is the folder there, and writable?",
    sqlite3.SQLITE_NOTADB: "it is not an SQLite database",
}


def primary_code(error: BaseException) -> int:
    """SQLite's primary result code of an error; 0 if it has none (it was raised by Python's module itself).

    The low byte: https://sqlite.org/rescode.html.
    """
    return getattr(error, "sqlite_errorcode", 0) & 0xFF


def is_busy(error: sqlite3.Error) -> bool:
    """Whether another connection has locked the file."""
    return primary_code(error) in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)


def explain(error: Exception) -> str:
    """What is wrong with a file, in words for an operator."""
    explanation = _EXPLANATIONS.get(primary_code(error))
    return f"{explanation} ({error})" if explanation else str(error)


def translated(error: Exception, file: str, unavailable: type[DtsError]) -> Exception:
    """The error that a caller sees for `error`; itself if it is a bug, or a key that is taken.

    `file` names the file for an operator, and `unavailable` is the error for one that cannot be used now.
    """
    if isinstance(error, OSError | ConfigError):
        return unavailable(f"{file} cannot be used now: {error}")
    if not isinstance(error, sqlite3.Error):
        return error
    if primary_code(error) not in _OF_THE_CALL:
        return unavailable(f"{file} cannot be used now: {explain(error)}")
    of_key = isinstance(error, sqlite3.IntegrityError) and error.sqlite_errorcode in _KEYS
    if isinstance(error, sqlite3.DataError | sqlite3.IntegrityError) and not of_key:
        return NotStorable(f"{file} cannot hold this: {error}")
    return error


def opening_error(error: Exception, file: str, unavailable: type[DtsError]) -> DtsError:
    """The error for a file that could not be opened: ConfigError if that is so until an operator changes something."""
    if isinstance(error, DtsError):
        return error
    if isinstance(error, OSError):
        passes = error.errno in _PASSING
        reason = error.strerror or str(error)
    else:
        passes, reason = primary_code(error) not in _WRONG, explain(error)
    if passes:
        return unavailable(f"{file} cannot be opened now: {reason}")
    return ConfigError(
        f"{file} cannot be opened for writing ({reason}): choose a path that this user may write, and that is no file "
        "of another program, in the URL; or change the owner or mode of the file and its folder"
    )


def when_unlocked(action: Callable[[], T], give_up: Callable[[], bool] = lambda: False) -> T:
    """Do something that fails at once when another process holds the lock, again and again until it succeeds.

    SQLite's own busy handler backs off to waits of 100 ms, which is many times what a transaction takes.

    Raises:
        sqlite3.OperationalError: the file is still locked after LOCK_TIMEOUT, or when `give_up` says so; or another
            error, at once.
    """
    deadline, backoff = time.monotonic() + LOCK_TIMEOUT, Backoff(_SHORTEST_WAIT, _LONGEST_WAIT)
    while True:
        try:
            return action()
        except sqlite3.OperationalError as error:
            if not is_busy(error) or time.monotonic() >= deadline or give_up():
                raise
        time.sleep(backoff.next_pause())


def open_connection(path: Path, *, cache: int, pages_in_log: int, statements: int = 128) -> sqlite3.Connection:
    """A connection to a file, whose transactions begin and end only where the code says so.

    `cache` is in KiB, and `pages_in_log` the size from which the write-ahead log is copied to the file.

    Raises:
        sqlite3.Error: there is no such file, or it cannot be used.
    """
    db = sqlite3.connect(path, timeout=0, isolation_level=None, cached_statements=statements)
    try:
        # Even these read the file, which another process may be switching to a write-ahead log just now.
        for pragma in (
            f"cache_size = -{cache}",
            f"wal_autocheckpoint = {pages_in_log}",
            f"journal_size_limit = {64 << 20}",
            # Else a large statement fails when the disk of TMPDIR is full, and the file's own disk would be blamed.
            "temp_store = MEMORY",
        ):
            when_unlocked(lambda pragma=pragma: db.execute(f"PRAGMA {pragma}"))  # type: ignore[misc]
    except BaseException:
        db.close()
        raise
    return db
