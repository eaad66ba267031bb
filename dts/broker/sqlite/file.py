"""Opening the file that has the queues, which several processes may do at once."""

from __future__ import annotations

import fcntl
import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from dts.broker.sqlite import queue as queue_table
from dts.embedded.errors import LOCK_TIMEOUT, open_connection, when_unlocked
from dts.errors import ConfigError

_PAGES_IN_LOG = 2000
_CACHE = 16_000  # KiB
_LOCK_WAIT = 0.005  # seconds between tries: to open the file takes a few ms


def open_queue_file(path: Path, wake: Path) -> sqlite3.Connection:
    """Open the file, and make it if it is not there. `wake` is the folder beside it.

    Raises:
        ConfigError: it is of another program, or of a newer release.
        OSError: it cannot be made.
        sqlite3.Error: it is no database, or cannot be used now.
    """
    with _locked(wake):
        if not path.exists():
            # What belonged to a file that was deleted would spoil the next one.
            for suffix in ("-wal", "-shm"):
                with suppress(FileNotFoundError):
                    os.unlink(f"{path}{suffix}")
            # Jobs are nobody else's business: the umask says whether a group shares them, as server and worker under
            # two users do. (Not for a file in use: to close it would end SQLite's locks.)
            with suppress(FileExistsError):
                os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o660))
        db = open_connection(path, cache=_CACHE, pages_in_log=_PAGES_IN_LOG)
        try:
            when_unlocked(lambda: queue_table.prepare(db))
        except ConfigError as error:
            db.close()
            raise ConfigError(f"queue file {path}: {error}") from error
        except BaseException:
            db.close()
            raise
        return db


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Open the file one process at a time. Raises BlockingIOError when another one, such as a stopped one, is at it."""
    folder.mkdir(exist_ok=True)  # it may have been deleted with the file
    handle = os.open(folder, os.O_RDONLY)
    deadline = time.monotonic() + LOCK_TIMEOUT
    try:
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise
            time.sleep(_LOCK_WAIT)
        yield
    finally:
        os.close(handle)
