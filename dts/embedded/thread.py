"""A thread that owns one SQLite connection, so that the event loop never waits for a disk or a lock.

Calls that arrive while one batch is at work form the next one. A batch with writes is one transaction: many callers
share one fsync (group commit), each in a savepoint of its own, so that one which fails does not fail the others. What
a batch gave goes back to the event loop in one wake-up.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any, NamedTuple, TypeVar

from dts.embedded.errors import is_busy, opening_error, translated, when_unlocked
from dts.errors import DtsError
from dts.runtime.log_throttle import OutageLog

log = logging.getLogger(__name__)

T = TypeVar("T")
Operation = Callable[[sqlite3.Connection], T]

CLOSE_GRACE = 2.0
"""Seconds for which calls that were made before the end still wait for other processes to release the file."""

_GAP = 0.0002  # seconds between two transactions in a row: without it, other processes never find the lock free
_BATCH = 256  # calls in a transaction at most: bounds how long the first of them waits and others are locked out
_BATCH_BYTES = 32 << 20


@dataclass(frozen=True)
class DatabaseFile:
    """A file, and what its users are told when something is wrong with it.

    `title` names it for an operator. `open` makes it if need be, and raises ConfigError, sqlite3.Error or OSError.
    `unavailable` is the error for a file that cannot be used now. When the file is deleted in use, `open` is called
    again if `is_made_anew`; else every call fails until there is a file again.
    """

    path: Path
    title: str
    open: Callable[[], sqlite3.Connection]
    unavailable: type[DtsError]
    is_made_anew: bool

    def identity(self) -> tuple[int, int] | None:
        """What tells the file from another one of its name; None if there is none."""
        try:
            found = os.stat(self.path)
        except (FileNotFoundError, NotADirectoryError):
            return None
        return found.st_dev, found.st_ino


class _Call(NamedTuple):
    operation: Operation[Any]
    future: asyncio.Future[Any]
    durable: bool
    read: bool
    droppable: bool
    needed: Operation[bool] | None
    size: int


class _Answer(NamedTuple):
    future: asyncio.Future[Any]
    result: Any
    error: Exception | None = None


class DatabaseThread:
    """Runs calls on a connection of its own, in the order in which they were made.

    `name` is the thread's. `on_commit` is called in the thread after each transaction, before the callers get answers.
    """

    def __init__(self, name: str, file: DatabaseFile, on_commit: Callable[[], None] = lambda: None) -> None:
        self._name = name
        self._file = file
        self._on_commit = on_commit
        self._calls: SimpleQueue[_Call | None] = SimpleQueue()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._ended: asyncio.Future[None] | None = None
        self._end_by = float("inf")
        self._db: sqlite3.Connection | None = None
        self._identity: tuple[int, int] | None = None
        self._synchronous = ""
        self._outages = OutageLog(log)

    async def start(self) -> None:
        """Start the thread and open the file. When that fails, it is tried again for each call, until `close`.

        Raises:
            ConfigError: there can be no such file.
            `unavailable` of the file: it is locked, or its disk is full.
        """
        self._loop = asyncio.get_running_loop()
        self._ended = self._loop.create_future()
        self._end_by = float("inf")
        self._calls = SimpleQueue()
        opened = self._loop.create_future()
        threading.Thread(target=self._work, args=(self._loop, opened), name=self._name, daemon=True).start()
        await opened

    async def close(self) -> None:
        """Finish the calls that were made and end the thread. May be called twice, or without a start."""
        if self._loop is not None:
            self._loop = None
            self._end_by = time.monotonic() + CLOSE_GRACE
            self._calls.put(None)
        if self._ended is not None:
            await asyncio.shield(self._ended)

    def submit(
        self,
        operation: Operation[T],
        *,
        durable: bool = True,
        read: bool = False,
        droppable: bool = False,
        needed: Operation[bool] | None = None,
        size: int = 0,
    ) -> asyncio.Future[T]:
        """Run `operation` in the thread.

        A write that is not `durable` survives this process, but maybe not a power cut. A `read` needs no transaction.
        A `droppable` call is left out when its caller has stopped waiting. `needed`, a quick look without a
        transaction, may find that there is nothing to do: the result is None then. `size` is in bytes.

        The future gets the error `unavailable` of the file when that cannot be used, or the thread is not started.
        """
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        if self._loop is None:
            future.set_exception(self._file.unavailable(f"{self._file.title} is not open"))
        else:
            self._calls.put(_Call(operation, future, durable, read, droppable, needed, size))
        return future

    # in the thread

    def _work(self, loop: asyncio.AbstractEventLoop, opened: asyncio.Future[None]) -> None:
        self._identity = None
        try:
            self._current()
            _deliver(loop, [_Answer(opened, None)])
        except Exception as error:  # noqa: BLE001  whatever it is, the caller of start() shall see it
            error = opening_error(error, self._file.title, self._file.unavailable)
            _deliver(loop, [_Answer(opened, None, error)])
        more = True
        while more:
            batch, more = self._next_batch()
            batch = [call for call in batch if not _is_dropped(call)]
            if batch:
                _deliver(loop, self._run(batch))
        self._disconnect()
        if self._ended is not None:
            _deliver(loop, [_Answer(self._ended, None)])

    def _next_batch(self) -> tuple[list[_Call], bool]:
        """Calls that wait, at least one or the end; and whether there can be more after them."""
        batch: list[_Call] = []
        size = 0
        call = self._calls.get()
        while call is not None:
            batch.append(call)
            size += call.size
            if len(batch) >= _BATCH or size >= _BATCH_BYTES:
                return batch, True
            try:
                call = self._calls.get_nowait()
            except Empty:
                return batch, True
        return batch, False

    def _run(self, batch: list[_Call]) -> list[_Answer]:
        """Run calls in one transaction; if that fails as a whole, one by one, so that only those that cannot fail."""
        try:
            db = self._current()
            if not when_unlocked(lambda: _must_write(db, batch), self._is_late(batch)):
                return [self._answer(call, db, _when_unlocked) for call in batch]
            self._begin(db, batch)
            answers = [self._answer(call, db, _in_savepoint) for call in batch]
            db.execute("COMMIT")
        except Exception as error:  # noqa: BLE001  whatever it is, it belongs to the callers, and the thread goes on
            self._roll_back()
            if len(batch) > 1 and not (isinstance(error, sqlite3.Error) and is_busy(error)):
                return [answer for call in batch for answer in self._run([call])]
            error = self._translated(error)
            return [_Answer(call.future, None, error) for call in batch]
        self._committed()
        return answers

    def _current(self) -> sqlite3.Connection:
        """The connection to the file that is there now, which may be another than before.

        Raises:
            FileNotFoundError: it was deleted in use, and is not to be made anew.
        """
        there = self._file.identity()
        if self._db is not None and self._identity == there:
            return self._db
        if self._identity is not None:
            if there is None and not self._file.is_made_anew:
                raise FileNotFoundError(
                    "it was deleted or moved while in use, and what it held is not made anew. Put it back, or restart "
                    "every process that uses it to begin with an empty one"
                )
            log.warning("%s was deleted or replaced: what it held is lost, and another is in use", self._file.title)
            self._identity = None
        self._disconnect()
        self._db = self._file.open()
        self._identity, self._synchronous = self._file.identity(), ""
        return self._db

    def _disconnect(self) -> None:
        db, self._db = self._db, None
        if db is not None:
            db.close()

    def _begin(self, db: sqlite3.Connection, batch: list[_Call]) -> None:
        # Either level is consistent, and what a process has committed outlives it: https://sqlite.org/wal.html.
        synchronous = "FULL" if any(call.durable for call in batch) else "NORMAL"
        if synchronous != self._synchronous:
            db.execute(f"PRAGMA synchronous = {synchronous}")
            self._synchronous = synchronous
        when_unlocked(lambda: db.execute("BEGIN IMMEDIATE"), self._is_late(batch))

    def _is_late(self, batch: list[_Call]) -> Callable[[], bool]:
        """What says whether to wait no longer for other processes: at the end, or for callers that have gone."""
        return lambda: time.monotonic() > self._end_by or all(map(_is_dropped, batch))

    def _committed(self) -> None:
        self._outages.worked("%s can be used again", self._file.title)
        try:
            self._on_commit()
        except Exception:
            log.exception("%s: what follows a commit has failed; it is made up for by the next look", self._file.title)
        if not self._calls.empty():
            time.sleep(_GAP)

    def _answer(
        self, call: _Call, db: sqlite3.Connection, run: Callable[[sqlite3.Connection, Operation[Any]], Any]
    ) -> _Answer:
        try:
            if _is_dropped(call) or (call.needed is not None and not db.in_transaction):
                return _Answer(call.future, None)
            return _Answer(call.future, run(db, call.operation))
        except _TransactionLost:
            raise
        except Exception as error:  # noqa: BLE001  whatever it is, it belongs to this call's caller and to no other
            return _Answer(call.future, None, self._translated(error))

    def _translated(self, error: Exception) -> Exception:
        visible = translated(error, self._file.title, self._file.unavailable)
        if isinstance(visible, self._file.unavailable):
            self._outages.failed("%s. It is tried again with each call", visible)
        return visible

    def _roll_back(self) -> None:
        if self._db is not None and self._db.in_transaction:
            try:
                self._db.execute("ROLLBACK")
            except sqlite3.Error as error:
                log.warning("%s is opened again, since it cannot undo: %s", self._file.title, error)
                self._identity = None
                self._disconnect()


class ReadingThread(DatabaseThread):
    """Runs calls that read."""

    def submit(self, operation: Operation[T], **options: Any) -> asyncio.Future[T]:
        """Run `operation` in the thread, outside a transaction."""
        return super().submit(operation, read=True, **options)


class _TransactionLost(sqlite3.OperationalError):
    """SQLite has rolled the whole transaction back: no call of it has happened."""


def _is_dropped(call: _Call) -> bool:
    return call.droppable and call.future.done()


def _must_write(db: sqlite3.Connection, batch: list[_Call]) -> bool:
    """Whether a transaction is needed. What earlier calls of a batch write may be what later ones look for."""
    writes = [call for call in batch if not call.read]
    return any(call.needed is None for call in writes) or any(call.needed(db) for call in writes if call.needed)


def _when_unlocked(db: sqlite3.Connection, operation: Operation[T]) -> T:
    return when_unlocked(lambda: operation(db))


def _in_savepoint(db: sqlite3.Connection, operation: Operation[T]) -> T:
    db.execute("SAVEPOINT call")
    try:
        result = operation(db)
    except BaseException as error:
        if not db.in_transaction:  # as when the disk is full
            lost = _TransactionLost(str(error))
            lost.sqlite_errorcode = getattr(error, "sqlite_errorcode", 0)
            raise lost from error
        db.execute("ROLLBACK TO call")
        db.execute("RELEASE call")
        raise
    db.execute("RELEASE call")
    return result


def _deliver(loop: asyncio.AbstractEventLoop, answers: list[_Answer]) -> None:
    with suppress(RuntimeError):  # the loop is closed: nobody waits any more
        loop.call_soon_threadsafe(_settle, answers)


def _settle(answers: Iterable[_Answer]) -> None:
    """In the event loop: give every caller what its call gave, unless it has gone away."""
    for future, result, error in answers:
        if future.done():
            continue
        if error is None:
            future.set_result(result)
        else:
            future.set_exception(error)
