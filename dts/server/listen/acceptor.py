"""Takes connections from listening sockets, and waits when the process is out of file descriptors."""

from __future__ import annotations

import asyncio
import errno
import logging
import resource
import socket
from collections.abc import Callable, Sequence
from typing import Any

from dts.runtime.log_throttle import OutageLog

logger = logging.getLogger(__name__)

_AT_ONCE = 128
"""Connections that are taken in a row before other work of the process has its turn."""

_PAUSE = 0.5  # seconds without accepting, during which descriptors get free; connections wait in the kernel's queue
_EXHAUSTED = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
_RESERVED_DESCRIPTORS = 128
"""Descriptors for everything but connections of clients: files, pipes, the store, the broker."""


class Acceptor:
    """Hands each new connection to `take`; `make_room` is called when there is no descriptor for another one."""

    def __init__(
        self,
        sockets: Sequence[socket.socket],
        take: Callable[[socket.socket, tuple[Any, ...]], None],
        make_room: Callable[[], None],
    ) -> None:
        self._sockets = sockets
        self._take = take
        self._make_room = make_room
        self._outage = OutageLog(logger, 60.0)
        self._resume: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Accept connections from now on."""
        loop = asyncio.get_running_loop()
        self._resume = None
        for each in self._sockets:
            loop.add_reader(each.fileno(), self._accept, each)

    def stop(self) -> None:
        """Accept no more."""
        loop = asyncio.get_running_loop()
        if self._resume is not None:
            self._resume.cancel()
        for each in self._sockets:
            loop.remove_reader(each.fileno())

    def _accept(self, listening: socket.socket) -> None:
        for _ in range(_AT_ONCE):
            try:
                connection, address = listening.accept()
            except BlockingIOError:
                return
            except ConnectionAbortedError:
                continue
            except OSError as error:
                if error.errno not in _EXHAUSTED:
                    raise
                self._pause(error)
                return
            self._outage.worked("connections are accepted again")
            connection.setblocking(False)
            self._take(connection, address)

    def _pause(self, error: OSError) -> None:
        self._outage.failed(
            "no new connections for a moment: %s; unsigned and idle ones are closed. Raise the limit of open files of "
            "this process, or lower [server] max_connections",
            error.strerror,
        )
        self.stop()
        self._make_room()
        self._resume = asyncio.get_running_loop().call_later(_PAUSE, self.start)


def allowed_connections(wanted: int) -> int:
    """How many connections the process can have of those that are wanted; raises its limit of open files for them."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = wanted + _RESERVED_DESCRIPTORS
    if soft != resource.RLIM_INFINITY and soft < needed:
        soft = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return wanted
    return max(soft - _RESERVED_DESCRIPTORS, soft // 2)
