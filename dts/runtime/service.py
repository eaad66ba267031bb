"""A part of a process that is started and stopped: one life for all of them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import AsyncExitStack
from types import TracebackType
from typing import Any, Protocol, Self, TypeVar

logger = logging.getLogger(__name__)

E = TypeVar("E")
E_co = TypeVar("E_co", covariant=True)

_MOST_SHOWN = 200  # characters of an event that is no good


class Source(Protocol[E_co]):
    """Where events come from, such as a subscription."""

    async def get(self) -> E_co | None:
        """The next one; None when there will be no more."""


class Service:
    """Something with a start and a stop.

    `start` runs `_start` once; whatever it registers on `self._stack` is undone by `stop`, last first. `stop` may
    be called twice, or without a start. Background tasks made by `_spawn` are cancelled and awaited in that order;
    one that dies of an error is logged, and `failed` is set so that the process can end instead of limping on.
    """

    def __init__(self) -> None:
        self._stack = AsyncExitStack()
        self._started = False
        self.failed = asyncio.Event()

    async def start(self) -> None:
        """Start. When it raises, what was begun is undone."""
        if self._started:
            return
        self._started = True
        try:
            await self._start()
        except BaseException:
            await self.stop()
            raise

    async def stop(self) -> None:
        """Stop, in the reverse order of the start."""
        stack, self._stack = self._stack.pop_all(), AsyncExitStack()
        await stack.aclose()
        self._started = False

    async def _start(self) -> None:
        """Register clean-ups on `self._stack` and tasks with `self._spawn`."""

    def _spawn(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        """Run `work` in the background until it ends or the service stops."""
        task = asyncio.create_task(work, name=name)
        task.add_done_callback(self._on_task_done)
        self._stack.push_async_callback(_cancel, task)
        return task

    async def _consume_events(self, events: Source[E], act: Callable[[E], Awaitable[None] | None], what: str) -> None:
        """Act on events until there are no more. One that cannot be acted on is logged, and nothing else.

        An event is a hint: whatever is wrong with one, the next one is read.
        """
        while (event := await events.get()) is not None:
            try:
                done = act(event)
                if done is not None:
                    await done
            except Exception as error:  # noqa: BLE001 - an event may hold anything
                shown = repr(event)[:_MOST_SHOWN]
                logger.warning("%s: an event is passed over: %s: %s: %s", what, type(error).__name__, error, shown)

    def _on_task_done(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error("%s died", task.get_name(), exc_info=error)
            self.failed.set()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()


async def _cancel(task: asyncio.Task[None]) -> None:
    """Cancel a task and wait for its end; its error, if any, was logged when it died."""
    task.cancel()
    await asyncio.wait([task])
