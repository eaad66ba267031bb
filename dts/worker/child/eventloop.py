"""The event loop of a child, and which job each of its tasks runs."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import copy_context
from typing import Any, TypeVar, cast

import uvloop

from dts.worker.attempt.exceptions import TimedOut
from dts.worker.attempt.introspection import is_a, traceback_of
from dts.worker.child.active_batch import ActiveBatch
from dts.worker.child.current_job import enter, own

_JOB = "_dts_job"  # the attribute of a task that says which job has begun it

T = TypeVar("T")


class _Executor(ThreadPoolExecutor):
    """Runs what it is given in the context of whoever gave it, as `asyncio.to_thread` does: it knows its job."""

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        """Run `fn` when a thread is free."""
        return super().submit(copy_context().run, fn, *args, **kwargs)


class Loop:
    """Kept from message to message, since a module may keep a client that belongs to it."""

    def __init__(self) -> None:
        self.loop = uvloop.new_event_loop()
        self.tasks: dict[asyncio.Task[Any], tuple[ActiveBatch, int]] = {}
        """The jobs at work: their messages and positions by the tasks that they run in."""
        self._causes: dict[asyncio.Task[Any], BaseException] = {}
        self.loop.set_task_factory(cast(Any, _make_task))
        self.loop.set_default_executor(_Executor(thread_name_prefix="asyncio"))
        asyncio.set_event_loop(self.loop)

    def cancel(self, batch: ActiveBatch, position: int, cause: BaseException) -> None:
        """In the loop: have CancelledError raised in a job at work; `cause` is what is reported of it."""
        for task, job in self.tasks.items():
            if job == (batch, position):
                self._causes[task] = cause
                task.cancel()

    def cancel_soon(self, batch: ActiveBatch, position: int, cause: BaseException) -> None:
        """Any thread: `cancel` at the loop's next turn."""
        self.loop.call_soon_threadsafe(self.cancel, batch, position, cause)

    def job_of(self, task: asyncio.Task[Any] | None) -> tuple[ActiveBatch, int] | None:
        """Any thread: the message and position of the job that a task runs, or that has begun it; None if unknown."""
        return self.tasks.get(task) or getattr(task, _JOB, None) if task is not None else None

    def begin(self, task: asyncio.Task[Any], batch: ActiveBatch, position: int) -> None:
        """A task runs a job from here on."""
        self.tasks[task] = batch, position
        enter(batch, position)

    def is_overdue(self, task: asyncio.Task[Any]) -> bool:
        """Whether a job has passed its hard timeout, so that it has failed whatever it returns or raises."""
        return type(self._causes.get(task)) is TimedOut

    def explain(self, task: asyncio.Task[Any], error: BaseException) -> BaseException:
        """The exception to report for one that ended a job: instead of a cancel the reason for it, if that is known."""
        cause = self._causes.get(task)
        if cause is None or not (is_a(error, asyncio.CancelledError) or type(cause) is TimedOut):
            return error
        cause.__traceback__ = traceback_of(error)
        return cause

    def end(self, task: asyncio.Task[Any]) -> None:
        """It runs it no longer."""
        del self.tasks[task]
        self._causes.pop(task, None)


def _make_task(loop: asyncio.AbstractEventLoop, work: Coroutine[Any, Any, T], **options: Any) -> asyncio.Task[T]:
    """A task that remembers which job began it: before Python 3.12 the context of a task cannot be read.

    Which `options` a loop passes on (name, context, eager_start) depends on the versions of Python and uvloop.
    """
    task = asyncio.Task(work, loop=loop, **options)
    setattr(task, _JOB, own())
    return task
