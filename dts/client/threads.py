"""A blocking call beside the event loop, in a thread that nobody has to wait for.

The loop's own executor joins its threads when the process ends, so one that is stuck in reading a terminal or in
writing to a pipe that nobody empties would keep Ctrl-C from working. These threads are daemons.
"""

from __future__ import annotations

import asyncio
import errno
import os
import queue
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

from dts.client.descriptors import read_some

T = TypeVar("T")


class ThreadedReader:
    """A file descriptor that a thread may be about to read from when it is closed.

    It is then closed once that read is over: before, its number could be given to another file or connection, and
    the thread would take what came there. Standard input is not closed at all.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._lock = threading.Lock()
        self._reading = False
        self._closed = False

    def fileno(self) -> int:
        """The descriptor's number."""
        return self._descriptor

    def read(self, size: int) -> bytes:
        """At most `size` bytes, none at the end. Blocks; one call at a time.

        Raises:
            OSError: it cannot be read, or was closed.
        """
        with self._lock:
            if self._closed:
                raise OSError(errno.EBADF, os.strerror(errno.EBADF))
            self._reading = True
        try:
            return read_some(self._descriptor, size)
        finally:
            with self._lock:
                self._reading = False
                self._close_if_unused()

    def close(self) -> None:
        """Read no more. May be called twice."""
        with self._lock:
            if not self._closed:
                self._closed = True
                self._close_if_unused()

    def _close_if_unused(self) -> None:
        if self._closed and not self._reading and self._descriptor > 0:
            os.close(self._descriptor)


def in_thread(call: Callable[[], T]) -> asyncio.Future[T]:
    """Begin `call` in a thread; the future has what it returns or raises (an Exception)."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def settle(result: T | None, error: Exception | None) -> None:
        if future.cancelled():
            return
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(result)  # type: ignore[arg-type]  # T may itself be None

    def work() -> None:
        result: T | None = None
        error: Exception | None = None
        try:
            result = call()
        except Exception as raised:  # noqa: BLE001 - handed over to whoever awaits the future
            error = raised
        with suppress(RuntimeError):  # the loop has closed: nobody waits any more
            loop.call_soon_threadsafe(settle, result, error)

    with _lock:
        thread = _idle.pop() if _idle else None
    if thread is None:
        thread = _IoThread()
        thread.start()
    thread.calls.put(work)
    return future


class _IoThread(threading.Thread):
    """Makes calls one after the other; a few such threads are kept for the next ones: to begin one costs as much."""

    def __init__(self) -> None:
        super().__init__(name="dts-client-io", daemon=True)
        self.calls: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()

    def run(self) -> None:
        """Make calls for as long as few threads are idle."""
        while True:
            self.calls.get()()
            with _lock:
                if len(_idle) >= _MOST_IDLE:
                    return
                _idle.append(self)


_MOST_IDLE = 4
_lock = threading.Lock()
_idle: list[_IoThread] = []
