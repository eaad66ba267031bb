"""The thread that owns a process's connection to the SQLite file, and commits what waits for it together.

Whatever is asked for while one transaction is being written goes into the next, so that a hundred concurrent publishes
share one flush to disk. Nothing in here blocks the event loop.
"""

from __future__ import annotations

import asyncio
import fcntl
import logging
import os
import queue
import random
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dts.errors import BrokerUnavailable, ConfigError, DtsError

log = logging.getLogger(__name__)

MAX_BATCH = 512
"""Pieces of work in one transaction, so that other processes get their turn."""

MAX_BATCH_BYTES = 32 << 20

BUSY_DELAY = 0.0002
"""Seconds before the file is tried again when another process writes; a commit takes about a millisecond. SQLite's own
busy handler soon sleeps for a tenth of a second at a time."""

BUSY_DELAY_MAX = 0.005

CLOSE_GRACE = 2.0
"""Seconds for which what was asked for before the end still competes with other processes."""

Woken = set[str]
"""Queues that got messages by a transaction, for the consumers that wait on them."""

_CANNOT_WORK = {sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM}

_EXPLANATIONS = {
    sqlite3.SQLITE_BUSY: "another process is writing all the time",
    sqlite3.SQLITE_FULL: "the disk is full",
    sqlite3.SQLITE_READONLY: "it may not be written by this user",
    sqlite3.SQLITE_CANTOPEN: "it cannot be opened; is the folder there, and writable?",
    sqlite3.SQLITE_NOTADB: "it is not an SQLite database",
}


@dataclass(slots=True, eq=False)
class Work:
    """Something to do with the file: `run(connection, woken)`, whose result `future` gets.

    `durable` work waits for the flush to disk; other work survives the end of the process, but perhaps not that of
    the machine. `needed`, a quick look without a transaction, may tell that there is nothing to do: the result is None
    then. A `read` needs no transaction. A `droppable` one is left out when its caller has stopped waiting for it.
    """

    run: Callable[[sqlite3.Connection, Woken], Any]
    future: asyncio.Future[Any]
    durable: bool = False
    read: bool = False
    droppable: bool = False
    needed: Callable[[sqlite3.Connection], bool] | None = None
    size: int = 0
    result: Any = field(default=None, init=False)


class Writer:
    """Runs work on one SQLite file in a thread of its own. `prepare` makes the tables.

    When the file is deleted or another one takes its place, it goes on with the one that is there, or makes it.
    `folder` is what processes lock while they open the file.
    """

    def __init__(
        self,
        path: Path,
        folder: Path,
        prepare: Callable[[sqlite3.Connection], None],
        tell_others: Callable[[Woken], None],
        tell_us: Callable[[Woken], None],
    ) -> None:
        self._path = path
        self._folder = folder
        self._prepare = prepare
        self._tell_others = tell_others
        self._tell_us = tell_us
        self._inbox: queue.SimpleQueue[Work | None] = queue.SimpleQueue()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._end_by = float("inf")
        self._synchronous = ""
        self._inode = (0, 0)
        self._ended: asyncio.Future[None] | None = None

    def start(self) -> asyncio.Future[None]:
        """Start the thread. The future resolves when the file is open, or gets ConfigError."""
        self._loop = asyncio.get_running_loop()
        self._ended = self._loop.create_future()
        opened: asyncio.Future[None] = self._loop.create_future()
        self._thread = threading.Thread(target=self._main, args=(opened,), name="sqlite-broker", daemon=True)
        self._thread.start()
        return opened

    async def close(self) -> None:
        """Finish what was asked for before, and close the file. May be called twice."""
        thread, self._thread = self._thread, None
        if thread is None or self._ended is None:
            return
        self._end_by = time.monotonic() + CLOSE_GRACE
        self._inbox.put(None)
        await self._ended
        thread.join()

    def submit(
        self,
        run: Callable[[sqlite3.Connection, Woken], Any],
        *,
        durable: bool = False,
        read: bool = False,
        droppable: bool = False,
        needed: Callable[[sqlite3.Connection], bool] | None = None,
        size: int = 0,
    ) -> asyncio.Future[Any]:
        """Have work done. Its future gets the result, or BrokerUnavailable. See `Work`."""
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        if self._thread is None:
            future.set_exception(BrokerUnavailable(f"the broker on {self._path} is not open"))
        else:
            self._inbox.put(Work(run, future, durable, read, droppable, needed, size))
        return future

    # The rest runs in the thread.

    def _main(self, opened: asyncio.Future[None]) -> None:
        self._connection: sqlite3.Connection | None = None
        try:
            self._connection = self._open()
            self._call(_resolve, [(opened, None)])
            self._work()
        except (sqlite3.Error, OSError) as error:
            self._call(_resolve, [(opened, self._config_error(error))])
            self._refuse()
        except ConfigError as error:
            self._call(_resolve, [(opened, self._config_error(error))])
            self._refuse()
        finally:
            if self._connection is not None:
                self._connection.close()
            self._call(_resolve, [(self._ended, None)])

    def _open(self) -> sqlite3.Connection:
        with _locked(self._folder):
            if not self._path.exists():
                # What belonged to a file that was deleted would spoil the next one.
                for suffix in ("-wal", "-shm"):
                    with suppress(FileNotFoundError):
                        os.unlink(f"{self._path}{suffix}")
                # Jobs are nobody else's business: the umask says whether a group shares them, as server and worker
                # under two users do. (Not for a file in use: to close it would end SQLite's locks.)
                with suppress(FileExistsError):
                    os.close(os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o660))
            connection = self._connect()
            self._inode = _inode(self._path)
            self._synchronous = ""
            return connection

    def _connect(self) -> sqlite3.Connection:
        while True:
            connection = sqlite3.connect(self._path, timeout=0, isolation_level=None)
            try:
                connection.execute("PRAGMA journal_mode = WAL")
                connection.execute("PRAGMA wal_autocheckpoint = 2000")
                connection.execute(f"PRAGMA journal_size_limit = {64 << 20}")
                connection.execute("PRAGMA cache_size = -16000")
                self._prepare(connection)
                return connection
            except sqlite3.OperationalError as error:
                connection.close()
                if not _is_busy(error) or time.monotonic() > self._end_by:
                    raise
                time.sleep(BUSY_DELAY_MAX)
            except BaseException:
                connection.close()
                raise

    def _follow_file(self) -> None:
        """Go on with the file that is there now, if it is another one or none.

        Raises:
            ConfigError: it cannot be opened.
            sqlite3.Error: so, too.
            OSError: so, too.
        """
        if self._connection is not None and self._inode == _inode(self._path):
            return
        before, self._inode = self._connection, (0, 0)
        self._connection = self._open()
        log.warning("queue file %s was deleted or replaced: what it held is lost, and another is in use", self._path)
        if before is not None:
            before.close()

    def _config_error(self, error: Exception) -> DtsError:
        return ConfigError(f"queue file {self._path}: {_explain(error)}")

    def _refuse(self) -> None:
        """The file could not be opened: so it is with all work, until the end."""
        while (work := self._inbox.get()) is not None:
            self._call(_resolve, [(work.future, BrokerUnavailable(f"queue file {self._path} is not open"))])

    def _work(self) -> None:
        more = True
        while more:
            batch, more = self._next_batch()
            batch = [work for work in batch if not (work.droppable and work.future.done())]
            if batch:
                self._do(batch)

    def _next_batch(self) -> tuple[list[Work], bool]:
        """What waits, or the next thing that comes; and whether more may follow."""
        batch: list[Work] = []
        size = 0
        work = self._inbox.get()
        while work is not None:
            batch.append(work)
            size += work.size
            if len(batch) >= MAX_BATCH or size >= MAX_BATCH_BYTES or self._inbox.empty():
                return batch, True
            work = self._inbox.get()
        return batch, False

    def _do(self, batch: list[Work]) -> None:
        """Do work in one transaction; if that fails, one by one, so that only what cannot be done fails."""
        woken: Woken = set()
        try:
            self._follow_file()
            self._transact(batch, woken)
        except (sqlite3.Error, OSError, ConfigError, ValueError, TypeError, OverflowError, MemoryError) as error:
            if self._connection is not None and self._connection.in_transaction:
                self._connection.rollback()
            if len(batch) > 1:
                for work in batch:
                    self._do([work])
                return
            log.debug("not done on %s: %r", self._path, error)
            self._call(_resolve, [(batch[0].future, self._unavailable(error))])
            return
        if woken:
            self._tell_others(woken)
        self._call(self._finish, [(work.future, work.result) for work in batch], woken)

    def _finish(self, outcomes: list[tuple[asyncio.Future[Any], Any]], woken: Woken) -> None:
        _resolve(outcomes)
        if woken:
            self._tell_us(woken)

    def _transact(self, batch: list[Work], woken: Woken) -> None:
        connection = self._connection
        assert connection is not None
        delay = BUSY_DELAY
        while True:
            try:
                if self._must_write(connection, batch):
                    self._set_synchronous(connection, any(work.durable for work in batch))
                    connection.execute("BEGIN IMMEDIATE")
                break
            except sqlite3.OperationalError as error:
                if not _is_busy(error) or time.monotonic() > self._end_by:
                    raise
            if all(work.droppable and work.future.done() for work in batch):
                return
            time.sleep(delay * random.uniform(0.5, 1.0))
            delay = min(delay * 1.5, BUSY_DELAY_MAX)
        writing = connection.in_transaction
        for work in batch:
            if (writing or work.read) and not (work.droppable and work.future.done()):
                work.result = work.run(connection, woken)
        if writing:
            connection.commit()

    def _must_write(self, connection: sqlite3.Connection, batch: list[Work]) -> bool:
        """Whether a transaction is needed. What earlier work of a batch writes may be what later work looks for."""
        writes = [work for work in batch if not work.read]
        if any(work.needed is None for work in writes):
            return True
        return any(work.needed(connection) for work in writes if work.needed is not None)

    def _set_synchronous(self, connection: sqlite3.Connection, durable: bool) -> None:
        """Flush at the commit for what must be durable; a claim or an ack may be undone by a power failure.

        Either is consistent, and what a process has committed outlives the process: https://sqlite.org/wal.html.
        """
        level = "FULL" if durable else "NORMAL"
        if level != self._synchronous:
            connection.execute(f"PRAGMA synchronous = {level}")
            self._synchronous = level

    def _unavailable(self, error: Exception) -> Exception:
        if isinstance(error, sqlite3.Error | OSError | ConfigError):
            return BrokerUnavailable(f"queue file {self._path}: {_explain(error)}")
        return error

    def _call(self, function: Callable[..., None], *arguments: Any) -> None:
        assert self._loop is not None
        try:
            self._loop.call_soon_threadsafe(function, *arguments)
        except RuntimeError:
            log.debug("the event loop was closed before the broker on %s", self._path)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Open the file one process at a time."""
    folder.mkdir(exist_ok=True)  # it may have been deleted with the file
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _inode(path: Path) -> tuple[int, int]:
    """What tells a file from another one of its name; zeros if there is none."""
    try:
        found = os.stat(path)
    except FileNotFoundError:
        return 0, 0
    return found.st_dev, found.st_ino


def _resolve(outcomes: list[tuple[asyncio.Future[Any], Any]]) -> None:
    for future, outcome in outcomes:
        if future.done():
            continue
        if isinstance(outcome, Exception):
            future.set_exception(outcome)
        else:
            future.set_result(outcome)


def _is_busy(error: sqlite3.Error) -> bool:
    return _code(error) in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)


def _code(error: Exception) -> int:
    """The primary result code: the low byte, see https://sqlite.org/rescode.html."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF


def _explain(error: Exception) -> str:
    return f"{_EXPLANATIONS[_code(error)]} ({error})" if _code(error) in _EXPLANATIONS else str(error)
