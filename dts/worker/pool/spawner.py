"""The worker's end of the template: requests children from it, and learns how they end."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import sys
from asyncio.subprocess import DEVNULL, Process
from collections import deque
from contextlib import suppress

import msgspec

from dts.runtime.service import Service
from dts.worker.link.options import ChildOptions, Descriptors
from dts.worker.link.reports import ENDED, FAILED, QUESTION, READY, REPORT, STARTED

logger = logging.getLogger(__name__)

_START_TIMEOUT = 60.0
"""Seconds until a template must be ready, and until it must have forked a child."""
_STOP_TIMEOUT = 5.0
_ASK_EVERY = 2.0
"""Seconds after an answer of the template until it is asked whether it is at work."""
_LOOK_EVERY = 0.5
_PATIENCE = 20
"""Looks without an answer, half a second apart, after which it is stuck. Not a time, since worker and template may both
have been stopped."""

LOST = -256
"""How a process ended whose template has died before it: that is not known."""


_OF_WORKER = ("NOTIFY_SOCKET", "WATCHDOG_PID", "WATCHDOG_USEC", "CREDENTIALS_DIRECTORY", "LISTEN_FDS", "LISTEN_PID")
"""Variables that the service manager sets for the worker: with them a function could speak for it, or find secrets."""


def _environment() -> dict[str, str]:
    """The worker's environment without what configures it, such as the URL of its broker."""
    return {name: value for name, value in os.environ.items() if not name.startswith("DTS_") and name not in _OF_WORKER}


class Spawner(Service):
    """Starts a template when the first child is asked for, and another one whenever that has died.

    With a `user` all of them run as that one; the worker has to be root.
    """

    def __init__(self, user: str = "") -> None:
        super().__init__()
        self._user = [user] if user else []
        self._process: Process | None = None
        self._socket: socket.socket | None = None
        self._ready: asyncio.Future[None] | None = None
        self._asked: deque[asyncio.Future[tuple[int, asyncio.Future[int]]]] = deque()
        self._ends: dict[int, asyncio.Future[int]] = {}
        self._starting = asyncio.Lock()
        self._answers = 0

    async def _start(self) -> None:
        self._spawn(self._watch(), "template")
        self._stack.push_async_callback(self._end)

    async def spawn(self, options: ChildOptions, given: Descriptors) -> tuple[int, asyncio.Future[int]]:
        """A new child: its process id, and what will be how it ended: its exit status, or minus a signal.

        The descriptors are the child's from here on, and are still the caller's to close.

        Raises:
            OSError: the system cannot, or what should become a template does not come up.
        """
        async with self._starting:
            if self._socket is None:
                await self._start_template()
        assert self._socket is not None
        asked: asyncio.Future[tuple[int, asyncio.Future[int]]] = asyncio.get_running_loop().create_future()
        socket.send_fds(self._socket, [msgspec.json.encode(options)], given)
        self._asked.append(asked)
        async with asyncio.timeout(_START_TIMEOUT):
            return await asked

    async def _watch(self) -> None:
        """Kill a template that does not answer, as when a function has stopped it: children depend on it."""
        while True:
            await asyncio.sleep(_ASK_EVERY)
            asked, before = self._socket, self._answers
            if asked is None or self._ready is None or not self._ready.done():
                continue
            with suppress(
                BlockingIOError, BrokenPipeError, ConnectionResetError
            ):  # when it is full, it was asked before
                asked.send(QUESTION)
            for _ in range(_PATIENCE):
                await asyncio.sleep(_LOOK_EVERY)
                if self._answers != before or self._socket is not asked:
                    break
            else:
                self._replace()

    def _replace(self) -> None:
        logger.error(
            "the process that children are forked from has not answered for %g s, and is killed with them: their jobs"
            " run again in children of a new one",
            _PATIENCE * _LOOK_EVERY,
        )
        if self._process is not None:
            with suppress(ProcessLookupError):
                self._process.kill()
        self._lose()

    async def _start_template(self) -> None:
        loop = asyncio.get_running_loop()
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "dts.worker.child.template", str(theirs.fileno()), *self._user),
                stdin=DEVNULL,
                env=_environment(),
                pass_fds=(theirs.fileno(),),
                start_new_session=True,
            )
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
        ours.setblocking(False)
        self._process, self._socket, self._ready = process, ours, loop.create_future()
        loop.add_reader(ours, self._on_report)
        try:
            async with asyncio.timeout(_START_TIMEOUT):
                await asyncio.shield(self._ready)
        finally:
            if not self._ready.done() or self._ready.exception() is not None:
                await self._end()

    def _on_report(self) -> None:
        assert self._socket is not None
        try:
            data = self._socket.recv(REPORT.size)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._lose()
            return
        self._answers += 1
        code, pid, status = REPORT.unpack(data)
        if code == READY and self._ready is not None and not self._ready.done():
            self._ready.set_result(None)
        elif code == STARTED:
            end = self._ends[pid] = asyncio.get_running_loop().create_future()
            if not (asked := self._asked.popleft()).done():
                asked.set_result((pid, end))
        elif code == FAILED:
            if not (asked := self._asked.popleft()).done():
                asked.set_exception(OSError(status, os.strerror(status)))
        elif code == ENDED and not (end := self._ends.pop(pid)).done():
            end.set_result(status)

    def _lose(self) -> None:
        """The template has died: its children are not worth much without it, and go too."""
        if self._socket is not None:
            asyncio.get_running_loop().remove_reader(self._socket)
            self._socket.close()
            self._socket = None
        gone = OSError("the process that it is forked from has died")
        if self._ready is not None and not self._ready.done():
            self._ready.set_exception(gone)
            self._ready.exception()  # read here, so that it is no error if nothing waits for it any more
        while self._asked:
            if not (asked := self._asked.popleft()).done():
                asked.set_exception(gone)
                asked.exception()
        for pid, end in self._ends.items():
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(pid, signal.SIGKILL)
            if not end.done():
                end.set_result(LOST)
        self._ends.clear()

    async def _end(self) -> None:
        """End the template; it kills what is left of its children."""
        process, self._process = self._process, None
        self._lose()
        if process is None:
            return
        try:
            async with asyncio.timeout(_STOP_TIMEOUT):
                await process.wait()
        except TimeoutError:
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()
