"""The event loop of a child, and which job each of its tasks runs."""

from __future__ import annotations

import asyncio
from typing import Any

import uvloop

from dts.worker import context
from dts.worker.errand import Errand


class Loop:
    """Kept from message to message, since a module may keep a client that belongs to it."""

    def __init__(self) -> None:
        self.loop = uvloop.new_event_loop()
        self.tasks: dict[asyncio.Task[Any], tuple[Errand, int]] = {}
        """The jobs at work: their messages and positions by the tasks that they run in."""
        self._causes: dict[asyncio.Task[Any], BaseException] = {}
        asyncio.set_event_loop(self.loop)

    def cancel(self, errand: Errand, position: int, cause: BaseException) -> None:
        """In the loop: have CancelledError raised in a job at work; `cause` is what is reported of it."""
        for task, job in self.tasks.items():
            if job == (errand, position):
                self._causes[task] = cause
                task.cancel()

    def begin(self, task: asyncio.Task[Any], errand: Errand, position: int) -> None:
        """A task runs a job from here on."""
        self.tasks[task] = errand, position
        context.enter(errand, position)

    def end(self, task: asyncio.Task[Any]) -> BaseException | None:
        """It runs it no longer; returns why the job was cancelled, if it was."""
        del self.tasks[task]
        return self._causes.pop(task, None)
