"""A thread that owns one SQLite connection, so that the event loop never waits for a disk or a lock.

Calls that arrive while one batch is at work form the next one. A batch of writes is one transaction: many callers
share one fsync (group commit), each in a savepoint of its own, so that one which fails does not fail the others. What
a batch gave goes back to the event loop in one wake-up.
"""

from __future__ import annotations

import asyncio
import random
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import Any, NamedTuple, TypeVar

from dts.errors import NotStorable, StoreUnavailable

T = TypeVar("T")
Operation = Callable[[sqlite3.Connection], T]

LOCK_TIMEOUT = 4.0
"""Seconds to wait for other processes to let go of the file, before the store counts as unavailable."""

_SHORTEST_WAIT = 0.0005  # seconds between tries for the lock: a transaction of another process takes a few ms
_LONGEST_WAIT = 0.004
_GAP = 0.0002  # seconds between two transactions in a row: without it, other processes never find the lock free
_BATCH = 256  # calls in a transaction at most: bounds how long the first of them waits and others are locked out

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


def primary_code(error: sqlite3.Error) -> int:
    """SQLite's primary result code of an error; 0 if it has none (it was raised by Python's module itself)."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF


def translated(error: Exception) -> Exception:
    """The error that a caller of the store sees for `error`; itself if it is a bug, or a key that is taken."""
    if not isinstance(error, sqlite3.Error):
        return error
    if primary_code(error) not in _OF_THE_CALL:
        return StoreUnavailable(f"the store's file cannot be used now: {error}")
    of_key = isinstance(error, sqlite3.IntegrityError) and error.sqlite_errorcode in _KEYS
    if isinstance(error, sqlite3.DataError | sqlite3.IntegrityError) and not of_key:
        return NotStorable(f"the store's file cannot hold this: {error}")
    return error


def when_unlocked(action: Callable[[], T]) -> T:
    """Do something that fails at once when another process holds the lock, again and again until it succeeds.

    SQLite's own busy handler backs off to waits of 100 ms, which is many times what a transaction takes.

    Raises:
        sqlite3.OperationalError: the file is still locked after LOCK_TIMEOUT; or another error, at once.
    """
    deadline = time.monotonic() + LOCK_TIMEOUT
    wait = _SHORTEST_WAIT
    while True:
        try:
            return action()
        except sqlite3.OperationalError as error:
            busy = primary_code(error) in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
            if not busy or time.monotonic() >= deadline:
                raise
        time.sleep(wait * random.uniform(0.5, 1.5))
        wait = min(wait * 1.5, _LONGEST_WAIT)


class _Call(NamedTuple):
    operation: Operation[Any]
    durable: bool
    future: asyncio.Future[Any]


class _Answer(NamedTuple):
    future: asyncio.Future[Any]
    result: Any
    error: Exception | None


class DatabaseThread:
    """Runs calls on a connection of its own, in the order in which they were made.

    Args:
        name: of the thread.
        connect: opens the connection; called in the thread.
        writes: whether calls run in transactions that hold the write lock.
    """

    def __init__(self, name: str, connect: Callable[[], sqlite3.Connection], *, writes: bool) -> None:
        self._name = name
        self._connect = connect
        self._run_batch = self._write_batch if writes else self._read_batch
        self._calls: SimpleQueue[_Call | None] = SimpleQueue()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._ended: asyncio.Future[None] | None = None
        self._synchronous = ""

    async def start(self) -> None:
        """Start the thread and open the connection.

        Raises:
            ConfigError, StoreUnavailable: whatever `connect` raised; nothing is left running.
        """
        self._loop = asyncio.get_running_loop()
        self._ended = self._loop.create_future()
        self._calls = SimpleQueue()
        opened = self._loop.create_future()
        threading.Thread(target=self._work, args=(opened,), name=self._name, daemon=True).start()
        try:
            await opened
        except BaseException:
            self._loop = None
            self._calls.put(None)
            raise

    async def close(self) -> None:
        """Finish the calls that were made and end the thread. May be called twice, or without a start."""
        if self._loop is not None:
            self._loop = None
            self._calls.put(None)
        if self._ended is not None:
            await asyncio.shield(self._ended)

    def submit(self, operation: Operation[T], *, durable: bool = True) -> asyncio.Future[T]:
        """Run `operation` in the thread. A write that is not durable survives this process, but maybe not a power cut.

        Raises:
            StoreUnavailable: the store is not started; or, from the future, the file cannot be used.
        """
        if self._loop is None:
            raise StoreUnavailable("the store is not open: it was closed, or not started")
        future: asyncio.Future[T] = self._loop.create_future()
        self._calls.put(_Call(operation, durable, future))
        return future

    # in the thread

    def _work(self, opened: asyncio.Future[None]) -> None:
        try:
            db = self._connect()
        except Exception as error:  # noqa: BLE001  whatever it is, the caller of start() shall see it
            self._deliver([_Answer(opened, None, translated(error))], opened.get_loop())
            self._end(opened.get_loop())
            return
        self._deliver([_Answer(opened, None, None)], opened.get_loop())
        going_on = True
        while going_on:
            batch, going_on = self._next_batch()
            if batch:
                self._deliver(self._run_batch(db, batch), opened.get_loop())
        db.close()
        self._end(opened.get_loop())

    def _next_batch(self) -> tuple[list[_Call], bool]:
        """Calls that wait, at least one or the end; and whether there can be more after them."""
        batch: list[_Call] = []
        call = self._calls.get()
        while call is not None:
            batch.append(call)
            if len(batch) == _BATCH:
                return batch, True
            try:
                call = self._calls.get_nowait()
            except Empty:
                return batch, True
        return batch, False

    def _read_batch(self, db: sqlite3.Connection, batch: list[_Call]) -> list[_Answer]:
        return [_answer(call, db, _when_unlocked) for call in batch]

    def _write_batch(self, db: sqlite3.Connection, batch: list[_Call]) -> list[_Answer]:
        try:
            self._begin(db, durable=any(call.durable for call in batch))
            answers = [_answer(call, db, _in_savepoint) for call in batch]
            db.execute("COMMIT")
        except sqlite3.Error as error:
            _roll_back(db)
            answers = [_Answer(call.future, None, translated(error)) for call in batch]
        if not self._calls.empty():
            time.sleep(_GAP)
        return answers

    def _begin(self, db: sqlite3.Connection, *, durable: bool) -> None:
        synchronous = "FULL" if durable else "NORMAL"
        if synchronous != self._synchronous:
            db.execute(f"PRAGMA synchronous = {synchronous}")
            self._synchronous = synchronous
        when_unlocked(lambda: db.execute("BEGIN IMMEDIATE"))

    def _deliver(self, answers: list[_Answer], loop: asyncio.AbstractEventLoop) -> None:
        with suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(_settle, answers)

    def _end(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._ended is not None:
            self._deliver([_Answer(self._ended, None, None)], loop)


def _answer(call: _Call, db: sqlite3.Connection, run: Callable[[sqlite3.Connection, Operation[Any]], Any]) -> _Answer:
    try:
        return _Answer(call.future, run(db, call.operation), None)
    except _TransactionLost:
        raise
    except Exception as error:  # noqa: BLE001  whatever it is, it belongs to this call's caller and to no other
        return _Answer(call.future, None, translated(error))


class _TransactionLost(sqlite3.OperationalError):
    """SQLite has rolled the whole transaction back: no call of it has happened."""


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


def _roll_back(db: sqlite3.Connection) -> None:
    if db.in_transaction:
        db.execute("ROLLBACK")


def _settle(answers: Iterable[_Answer]) -> None:
    """In the event loop: give every caller what its call gave, unless it has gone away."""
    for future, result, error in answers:
        if future.done():
            continue
        if error is None:
            future.set_result(result)
        else:
            future.set_exception(error)
