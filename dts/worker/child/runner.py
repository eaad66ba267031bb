"""Runs the jobs of one message one after another; `async_session` runs async ones and ends them in the same way."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from contextvars import copy_context
from time import perf_counter
from typing import Any

import msgspec

from dts.config import WorkerSettings
from dts.wire.dts_pb2 import Error, Job
from dts.worker.attempt.exceptions import Cancelled, SoftTimeout, TimedOut
from dts.worker.attempt.introspection import forget_traceback
from dts.worker.attempt.result_json import ResultNotJSON, encode_value
from dts.worker.attempt.retry_policy import REASON_DEADLINE, Failure, RetryPolicy
from dts.worker.child import secrets
from dts.worker.child.active_batch import ActiveBatch
from dts.worker.child.code.loader import Loaded
from dts.worker.child.outbox import MAX_PENDING, Ended, Outbox
from dts.worker.child.partials import Partials
from dts.worker.child.state.alarms import Alarms
from dts.worker.child.state.memory import MemoryLimit
from dts.worker.child.yielded import encoded
from dts.worker.link.board import ENDED, SENT, STARTED, Board

_decode_args = msgspec.json.Decoder(list[Any]).decode
_decode_kwargs = msgspec.json.Decoder(dict[str, Any]).decode
_time = time.time  # a function may replace that of the module


class Runner:
    """Runs jobs and puts their results in an outbox.

    The state of each is written on the board before and after it runs. `current` is the position of the plain job at
    work, -1 between two, and `began` the time (monotonic) when it began.
    """

    def __init__(
        self, board: Board, settings: WorkerSettings, partials: Partials, memory: MemoryLimit, alarms: Alarms
    ) -> None:
        self.current = -1
        self.began = 0.0
        self.alarms = alarms
        self.max_result = settings.max_result
        """Bytes of a result, at most."""
        self._board = board
        self._grace = settings.cancel_grace
        self._policy = RetryPolicy(settings, secrets.mask)
        self._memory = memory
        self._partials = partials

    def position(self) -> int:
        """The position of the plain job at work, -1 between two."""
        return self.current

    def begin(self, function: Loaded, batch: ActiveBatch) -> Callable[..., Any]:
        """Begin with a message that nothing runs beside; returns what its jobs call."""
        batch.began = perf_counter()  # the monotonic clock, on Linux
        self._board.timed = batch.terms.strict
        if not function.is_generator:
            return function.main
        return self._partials.collect(function.main, is_async=function.is_async)

    def begin_beside(self, batch: ActiveBatch) -> None:
        """Begin with a message beside others."""
        batch.began = perf_counter()
        self._board.timed = self._board.timed or batch.terms.strict

    def run(self, function: Loaded, batch: ActiveBatch, outbox: Outbox) -> None:
        """Run the waiting jobs of a message and send their results.

        Whatever a function raises ends its job, and nothing else.
        """
        call = self.begin(function, batch)
        while True:
            try:
                self.run_plain(call, batch, outbox, batch.waiting)
                break
            except BaseException as error:
                self._memory.spare = None
                position, self.current = self.current, -1
                if position < 0:
                    raise
                failure = self.decide(position, error, batch)
            self.fail(position, failure, batch, outbox, began=self.began, started=batch.began)
        outbox.finish()

    def refuse(self, error: BaseException, batch: ActiveBatch, outbox: Outbox) -> None:
        """Fail all jobs of a message whose function cannot be loaded."""
        while batch.waiting:
            position = batch.waiting.popleft()
            batch.states[position] = ENDED
            job = batch.jobs[position]
            failure = self._policy.decide(error, job, batch.terms.of(job))
            outbox.ended.append((position, job, b"", failure, 0.0, 0.0, b""))

    def run_plain(self, main: Callable[..., Any], batch: ActiveBatch, outbox: Outbox, positions: deque[int]) -> None:
        """Run the jobs at these positions one after another, and take each off when it begins."""
        popleft, jobs, strict, yielded = positions.popleft, batch.jobs, batch.terms.strict, batch.yielded
        states, append, armed, memory = batch.states, outbox.ended.append, self.alarms.armed, self._memory
        started, pending = batch.began, 0
        while True:
            try:
                position = popleft()
            except IndexError:
                return
            job = jobs[position]
            states[position] = STARTED
            began = self.began = perf_counter()
            if strict and (refused := self.admit(position, job, batch, began)) is not None:
                append((position, job, b"", refused, 0.0, began - started, b""))
                states[position] = ENDED
                continue
            try:
                self.current = position
                value = self._call(main, job)
                if armed:
                    self.alarms.disarm(batch, position)
                self.current = -1
            except BaseException as error:  # noqa: BLE001 - a user's code runs here, and may call sys.exit as well
                memory.spare, self.current = None, -1
                failure = self.decide(position, error, batch)
            else:
                partials = encoded(yielded, position) if yielded else b""
                append((position, job, value, None, perf_counter() - began, began - started, partials))
                states[position] = ENDED
                pending += len(value)
                if pending > MAX_PENDING:
                    outbox.flush()
                    pending = 0
                continue
            self.fail(position, failure, batch, outbox, began=began, started=started)

    def _call(self, main: Callable[..., Any], job: Job) -> bytes:
        """The encoded result of a plain job, which runs in a context of its own.

        What goes with the arguments and the result runs a user's code, in the job's own time.
        """
        run, args, kwargs = copy_context().run, job.args, job.kwargs
        arguments = _decode_args(args) if args else ()
        result = run(main, *arguments, **_decode_kwargs(kwargs)) if kwargs else run(main, *arguments)
        try:
            return encode_value(result, self.max_result)
        except ResultNotJSON:
            pass  # what follows must not be within the handler, which would become part of what is reported
        return encode_value(run(self._partials.complete, result), self.max_result)

    def admit(self, position: int, job: Job, batch: ActiveBatch, began: float) -> Failure | None:
        """Set the time limit of a job that begins now; a failure when it must not begin any more."""
        batch.begins[position] = began
        terms = batch.terms.of(job)
        if terms.deadline and _time() > terms.deadline:
            late = f"the job was not started before its deadline; that passed {_time() - terms.deadline:.1f} s ago"
            return Failure(Error(type="DeadlinePassed", message=late, reason=REASON_DEADLINE), None, job.kills)
        # An async job is cancelled by its loop at the limit, so that those beside it need not run again: the process is
        # killed only if that does not help.
        limit = terms.timeout + self._grace if batch.is_async else terms.timeout
        batch.limits[position] = began + limit if terms.timeout else 0.0
        return None

    def decide(self, position: int, error: BaseException, batch: ActiveBatch) -> Failure | None:
        """What is reported of an exception that ended a job; None of a job that was cancelled.

        The exception lets go of its frames, and whoever handles it shall let go of it before the job counts as ended:
        what is in them may run a user's code when it goes, and that takes of the job's own time.
        """
        self.clear(position, batch)
        failure, job = None, batch.jobs[position]
        if position not in batch.cancelled:
            with self._memory.relaxed():
                failure = self._policy.decide(error, job, batch.terms.of(job))
        forget_traceback(error)
        return failure

    def clear(self, position: int, batch: ActiveBatch) -> None:
        """After an exception: make some memory free, and cancel the timers of the job."""
        self._memory.spare = None
        if self.alarms.armed:
            self.alarms.disarm(batch, position)

    def fail(
        self,
        position: int,
        failure: Failure | None,
        batch: ActiveBatch,
        outbox: Outbox,
        *,
        began: float,
        started: float,
    ) -> None:
        """Note that a job ended by an exception. `began` and `started` are times of the job and of its message."""
        if failure is None:
            batch.yielded.pop(position, None)
            batch.states[position] = SENT
            return
        job = batch.jobs[position]
        duration, partials = perf_counter() - began, encoded(batch.yielded, position)
        ended: Ended = (position, job, b"", failure, duration, began - started, partials)
        outbox.ended.append(ended)
        batch.states[position] = ENDED


def soft_timeout_error(soft_timeout: float) -> SoftTimeout:
    """What is raised in a function after so many seconds."""
    return SoftTimeout(f"the function ran longer than its soft timeout of {soft_timeout:g} s")


def timeout_error(timeout: float) -> TimedOut:
    return TimedOut(f"the function ran longer than its timeout of {timeout:g} s")


def cancelled_error() -> Cancelled:
    """What is raised in a function whose job was cancelled."""
    return Cancelled("the job was cancelled")
