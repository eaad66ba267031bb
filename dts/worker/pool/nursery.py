"""Starts blank children as they are used up, and listens to each until it ends."""

from __future__ import annotations

import asyncio
import logging
from typing import Protocol

from dts.runtime.backoff import Backoff
from dts.runtime.service import Service
from dts.worker.link.frames import Frame
from dts.worker.link.options import ChildOptions
from dts.worker.pool.child_process import ChildProcess, say_end
from dts.worker.pool.spawner import Spawner

logger = logging.getLogger(__name__)

_FIRST_PAUSE, _LONGEST_PAUSE = 0.2, 10.0  # seconds between attempts to start a child that does not come up
_STOP_TIMEOUT = 1.0  # seconds that an idle child has to end by itself, as its functions' atexit handlers may want


class Parent(Protocol):
    """The executor that children are started for."""

    options: ChildOptions

    def lacks(self, starting: int) -> bool:
        """Whether one more is wanted, when so many are starting."""

    def on_no_child(self) -> None:
        """The system lacks the means to start another child."""

    def on_frame(self, child: ChildProcess, frame: Frame) -> None:
        """A child has sent a frame."""

    def on_end(self, child: ChildProcess, code: int) -> None:
        """A child has ended: see `ChildProcess.wait`."""


class Nursery(Service):
    """All children that are alive, whether they are ready or not. When it stops, so do they."""

    def __init__(self, parent: Parent) -> None:
        super().__init__()
        self.starting: set[ChildProcess] = set()
        """Those that are not ready yet."""
        self.stopping = False
        self._parent = parent
        self._spawner = Spawner(parent.options.settings.child_user)
        self._lives: dict[ChildProcess, asyncio.Task[None]] = {}
        self._backoff = Backoff(_FIRST_PAUSE, _LONGEST_PAUSE)
        self._pause = 0.0  # seconds until the next attempt, after one that came to nothing
        self._wanted = asyncio.Event()

    async def _start(self) -> None:
        await self._stack.enter_async_context(self._spawner)
        self._stack.push_async_callback(self._end_all)
        self._spawn(self._run(), "nursery")
        self._wanted.set()

    def check(self) -> None:
        """Start children if the parent lacks any."""
        if self._is_lacking():
            self._wanted.set()

    def on_ready(self, child: ChildProcess) -> None:
        """A child has said that it is ready."""
        self.starting.discard(child)
        child.ready, self._pause = True, 0.0
        self._backoff.reset()

    def _is_lacking(self) -> bool:
        starting = sum([not child.retiring for child in self.starting])
        return not self.stopping and self._parent.lacks(starting)

    async def _run(self) -> None:
        while True:
            await self._wanted.wait()
            self._wanted.clear()
            while self._is_lacking():
                await asyncio.sleep(self._pause)
                try:
                    child = await ChildProcess.start(self._parent.options, self._spawner)
                except OSError as error:
                    self._on_failure(f"cannot be started: {error}")
                    self._parent.on_no_child()
                    continue
                self.starting.add(child)
                task = self._lives[child] = asyncio.create_task(self._live_with(child), name=f"child {child.pid}")
                task.add_done_callback(self._on_task_done)

    def _on_failure(self, said: str) -> None:
        self._pause = self._backoff.next_pause()
        logger.error("a child %s before it was ready; the next attempt is in %.1f s", said, self._pause)

    async def _live_with(self, child: ChildProcess) -> None:
        try:
            child.listen(self._parent.on_frame)
            code = await child.wait()
            self.starting.discard(child)
            if not (child.ready or self.stopping):
                self._on_failure(say_end(code))
            self._parent.on_end(child, code)
        finally:
            child.kill()
            child.close()
            del self._lives[child]

    async def _end_all(self) -> None:
        """End every child: those that work at once, the others by themselves within a second."""
        self.stopping = True
        for child in self._lives:
            child.kill() if child.given else child.finish()
        lives = list(self._lives.values())
        if lives:
            await asyncio.wait(lives, timeout=_STOP_TIMEOUT)
        for task in lives:
            task.cancel()  # kills the child
        await asyncio.gather(*lives, return_exceptions=True)
