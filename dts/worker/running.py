"""Runs the jobs of one message: plain functions one after another, `async def` ones at the same time."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from time import perf_counter
from typing import Any

import msgspec

from dts.config import WorkerSettings
from dts.wire.dts_pb2 import Error, Job
from dts.worker import context
from dts.worker.board import ENDED, SENT, STARTED, Board
from dts.worker.errand import Errand
from dts.worker.jsonvalue import encode_value
from dts.worker.loader import Loaded
from dts.worker.outbox import MAX_PENDING, Ended, Outbox
from dts.worker.partials import Partials
from dts.worker.raised import Cancelled, SoftTimeout, TimedOut
from dts.worker.retries import REASON_DEADLINE, Failure, Judge
from dts.worker.surroundings import MemoryLimit
from dts.worker.terms import Terms

_decode_args = msgspec.json.Decoder(list[Any]).decode
_decode_kwargs = msgspec.json.Decoder(dict[str, Any]).decode
_time = time.time  # a function may replace that of the module


class Runner:
    """Runs jobs and puts their results in an outbox.

    The state of each is written on the board before and after it runs. `current` is the position of the plain job at
    work, -1 between two, and `began` the time (monotonic) when it began; `cancelled` are the positions of jobs that
    have been told to stop, whose results nobody wants.
    """

    def __init__(self, board: Board, settings: WorkerSettings, partials: Partials, memory: MemoryLimit) -> None:
        self.current = -1
        self.began = 0.0
        self.cancelled: set[int] = set()
        self.loop: Any = None
        self.tasks: dict[Any, int] = {}
        """The async jobs at work: their positions by the tasks that they run in."""
        self._board = board
        self._states = board.states
        self._max_result = settings.max_result
        self._grace = settings.cancel_grace
        self._judge = Judge(settings)
        self._memory = memory
        self._partials = partials
        self._pending = 0  # bytes of results since the last flush
        self._causes: dict[int, BaseException] = {}  # why async jobs were cancelled, by position

    def run(self, function: Loaded, errand: Errand, outbox: Outbox) -> None:
        """Run the waiting jobs of a message. Whatever a function raises ends its job, and nothing else."""
        self.cancelled.clear()
        errand.began = perf_counter()  # the monotonic clock, on Linux
        self._board.timed = errand.terms.strict
        main = self._partials.collect(function.main, is_async=function.is_async)
        call = main if function.is_generator else function.main
        if function.is_async:
            self._run_async(call, function.name, errand, outbox)
            return
        while True:
            try:
                return self._run_plain(call, errand, outbox)
            except BaseException as error:
                position, self.current = self.current, -1
                if position < 0:
                    raise
                self._fail(position, error, errand, outbox, began=self.began, started=errand.began)

    def refuse(self, error: BaseException, errand: Errand, outbox: Outbox) -> None:
        """Fail all jobs of a message whose function cannot be loaded."""
        while errand.waiting:
            position = errand.waiting.popleft()
            self._states[position] = ENDED
            job = errand.jobs[position]
            failure = self._judge.judge(error, job, errand.terms.of(job))
            outbox.ended.append((position, job, b"", failure, 0.0, 0.0, b""))

    def _run_plain(self, main: Callable[..., Any], errand: Errand, outbox: Outbox) -> None:
        popleft, jobs, strict, yielded = errand.waiting.popleft, errand.jobs, errand.terms.strict, self._partials.of
        states, max_result, append = self._states, self._max_result, outbox.ended.append
        pending = 0
        started = perf_counter()
        while True:
            try:
                position = popleft()
            except IndexError:
                return
            job = jobs[position]
            states[position] = STARTED
            began = self.began = perf_counter()
            if strict and (refused := self._admit(position, job, errand, began)) is not None:
                append((position, job, b"", refused, 0.0, began - started, b""))
                states[position] = ENDED
                continue
            try:
                self.current = position
                args, kwargs = job.args, job.kwargs
                arguments = _decode_args(args) if args else ()
                result = main(*arguments, **_decode_kwargs(kwargs)) if kwargs else main(*arguments)
                value = encode_value(result, max_result)
                self.current = -1
            except BaseException as error:  # noqa: BLE001 - a user's code runs here, and may call sys.exit as well
                self.current = -1
                self._fail(position, error, errand, outbox, began=began, started=started)
                continue
            partials = self._partials.encoded(position) if yielded else b""
            append((position, job, value, None, perf_counter() - began, began - started, partials))
            states[position] = ENDED
            pending += len(value)
            if pending > MAX_PENDING:
                outbox.flush()
                pending = 0

    def _admit(self, position: int, job: Job, errand: Errand, began: float) -> Failure | None:
        """Set the time limit of a job that begins now; a failure when it must not begin any more."""
        terms = errand.terms.of(job)
        if terms.deadline and _time() > terms.deadline:
            late = f"the job was not started before its deadline; that passed {_time() - terms.deadline:.1f} s ago"
            return Failure(Error(type="DeadlinePassed", message=late, reason=REASON_DEADLINE), None, job.kills)
        # An async job is cancelled by its loop at the limit, so that those beside it need not run again: the process is
        # killed only if that does not help.
        limit = terms.timeout + self._grace if errand.is_async else terms.timeout
        self._board.limits[position] = began + limit if terms.timeout else 0.0
        return None

    def _fail(
        self, position: int, error: BaseException, errand: Errand, outbox: Outbox, *, began: float, started: float
    ) -> None:
        """Note that a job ended by an exception. `began` and `started` are times of the job and of its message."""
        if position in self.cancelled:
            self._partials.of.pop(position, None)
            self._states[position] = SENT
            return
        job = errand.jobs[position]
        with self._memory.relaxed():
            failure = self._judge.judge(error, job, errand.terms.of(job))
        duration, partials = perf_counter() - began, self._partials.encoded(position)
        ended: Ended = (position, job, b"", failure, duration, began - started, partials)
        outbox.ended.append(ended)
        self._states[position] = ENDED

    # async

    def cancel(self, position: int, cause: BaseException) -> None:
        """In the loop: have CancelledError raised in an async job at work; `cause` is what is reported of it."""
        for task, other in self.tasks.items():
            if other == position:
                self._causes[position] = cause
                task.cancel()

    def _run_async(self, main: Callable[..., Any], name: str, errand: Errand, outbox: Outbox) -> None:
        import asyncio  # 50 ms with uvloop, and the tests of parts of a child never need them

        import uvloop

        if self.loop is None:  # kept, since a module may keep a client that belongs to it
            self.loop = uvloop.new_event_loop()
            asyncio.set_event_loop(self.loop)
        errand.is_async = True
        started = perf_counter()
        while errand.waiting:  # once, unless a job cancels lanes that have not begun
            count = min(errand.terms.common.concurrency, len(errand.waiting))
            lanes = [self.loop.create_task(self._run_lane(main, errand, outbox, started)) for _ in range(count)]
            self._run_until_done(asyncio.gather(*lanes, return_exceptions=True), name)

    def _run_until_done(self, lanes: Any, name: str) -> None:
        while not lanes.done():
            try:
                self.loop.run_until_complete(lanes)
            except BaseException as error:  # noqa: BLE001 - from a task that a user's code left behind
                print(f"a task of {name} raised {error!r}", file=sys.stderr)  # noqa: T201

    async def _run_lane(self, main: Callable[..., Any], errand: Errand, outbox: Outbox, started: float) -> None:
        """Run one job after another, until there are no more that wait."""
        import asyncio

        task = asyncio.current_task()
        waiting = errand.waiting
        while True:
            try:
                position = waiting.popleft()
            except IndexError:
                return
            self._states[position] = STARTED
            context.enter(position)
            self.tasks[task] = position
            began = perf_counter()
            job = errand.jobs[position]
            if errand.terms.strict and (refused := self._admit(position, job, errand, began)) is not None:
                outbox.ended.append((position, job, b"", refused, 0.0, began - started, b""))
                self._states[position] = ENDED
                continue
            try:
                value = await self._run_one(main, position, errand)
            except BaseException as error:  # noqa: BLE001 - a user's code runs here, and may cancel its own task
                cause = self._causes.get(position) if isinstance(error, asyncio.CancelledError) else None
                if cause is not None:
                    cause.__traceback__ = error.__traceback__
                self._fail(position, cause or error, errand, outbox, began=began, started=started)
            else:
                partials = self._partials.encoded(position)
                duration = perf_counter() - began
                outbox.ended.append((position, job, value, None, duration, began - started, partials))
                self._states[position] = ENDED
                self._pending += len(value)
            del self.tasks[task]
            self._causes.pop(position, None)
            if task is not None and task.cancelling():
                await _forget_cancel(task)
            if self._pending > MAX_PENDING:
                outbox.flush()
                self._pending = 0

    async def _run_one(self, main: Callable[..., Any], position: int, errand: Errand) -> bytes:
        job = errand.jobs[position]
        timers = self._set_timers(position, errand.terms.of(job)) if errand.terms.strict else ()
        try:
            arguments = _decode_args(job.args or b"[]")
            result = await main(*arguments, **_decode_kwargs(job.kwargs or b"{}"))
            return encode_value(result, self._max_result)
        finally:
            for timer in timers:
                timer.cancel()

    def _set_timers(self, position: int, terms: Terms) -> list[Any]:
        """Have an async job cancelled at its time limits."""
        limits = [(terms.soft_timeout, soft_timeout_error), (terms.timeout, _timeout_error)]
        return [self.loop.call_later(limit, self.cancel, position, make(limit)) for limit, make in limits if limit]


async def _forget_cancel(task: Any) -> None:
    """Take back a cancel that a job has got and not taken, lest it hits the next one."""
    import asyncio

    while task.cancelling():
        task.uncancel()
    try:
        await asyncio.sleep(0)
    except asyncio.CancelledError:
        while task.cancelling():
            task.uncancel()


def soft_timeout_error(soft_timeout: float) -> SoftTimeout:
    """What is raised in a function after so many seconds."""
    return SoftTimeout(f"the function ran longer than its soft timeout of {soft_timeout:g} s")


def _timeout_error(timeout: float) -> TimedOut:
    return TimedOut(f"the function ran longer than its timeout of {timeout:g} s")


def cancelled_error() -> Cancelled:
    """What is raised in a function whose job was cancelled."""
    return Cancelled("the job was cancelled")
