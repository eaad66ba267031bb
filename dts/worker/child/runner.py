"""Runs the jobs of one message one after another; `session` runs async ones, and shares with it what ends a job."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from time import perf_counter
from typing import Any

import msgspec

from dts.config import WorkerSettings
from dts.errors import ProcessChanged
from dts.wire.dts_pb2 import Error, Job
from dts.worker.attempt.exceptions import Cancelled, SoftTimeout, TimedOut
from dts.worker.attempt.introspection import forget_traceback
from dts.worker.attempt.result_json import ResultNotJSON, encode_value
from dts.worker.attempt.retry_policy import REASON_DEADLINE, Failure, RetryPolicy
from dts.worker.child.active_batch import Errand
from dts.worker.child.code.loader import Loaded
from dts.worker.child.outbox import MAX_PENDING, Ended, Outbox
from dts.worker.child.partials import Partials
from dts.worker.child.state.leak_check import LOOK_EVERY, Conduct
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
        self, board: Board, settings: WorkerSettings, partials: Partials, memory: MemoryLimit, conduct: Conduct
    ) -> None:
        self.current = -1
        self.began = 0.0
        self.leaving = ""
        """Why this process must run no further job, since one has left it changed; empty if it may."""
        self.conduct = conduct
        self.max_result = settings.max_result
        """Bytes of a result, at most."""
        self._board = board
        self._grace = settings.cancel_grace
        self._policy = RetryPolicy(settings)
        self._memory = memory
        self._partials = partials
        self._looked = 0
        self._fresh = True  # no message has been run here before

    def position(self) -> int:
        """The position of the plain job at work; -1 for none."""
        return self.current

    def begin(self, function: Loaded, errand: Errand) -> Callable[..., Any]:
        """Begin with a message that nothing runs beside; returns what its jobs call."""
        errand.began = perf_counter()  # the monotonic clock, on Linux
        self.conduct.begin()
        self._board.timed = errand.terms.strict
        if not function.is_generator:
            return function.main
        return self._partials.collect(function.main, is_async=function.is_async)

    def begin_beside(self, errand: Errand) -> None:
        """Begin with a message beside others."""
        errand.began = perf_counter()
        self._board.timed = self._board.timed or errand.terms.strict

    def run(self, function: Loaded, errand: Errand, outbox: Outbox) -> None:
        """Run the waiting jobs of a message and send what comes of them.

        Whatever a function raises ends its job, and nothing else. When a job has left the process changed, those that
        are not begun are left to somebody else, and those of which it may be any.
        """
        call, self._looked = self.begin(function, errand), 0
        while not self.leaving:
            try:
                self._run_plain(call, errand, outbox)
                break
            except BaseException as error:
                self._memory.spare = None
                position, self.current = self.current, -1
                if position < 0:
                    raise
                failure = self.weigh(position, error, errand)
            self.fail(position, failure, errand, outbox, began=self.began, started=errand.began)
            self._mind(outbox)
        self._fresh = False
        if self.leaving and (errand.waiting or self._looked < len(outbox.ended)):
            outbox.leave(self._looked)
        else:
            outbox.finish()

    def refuse(self, error: BaseException, errand: Errand, outbox: Outbox) -> None:
        """Fail all jobs of a message whose function cannot be loaded."""
        while errand.waiting:
            position = errand.waiting.popleft()
            errand.states[position] = ENDED
            job = errand.jobs[position]
            failure = self._policy.decide(error, job, errand.terms.of(job))
            outbox.ended.append((position, job, b"", failure, 0.0, 0.0, b""))

    def _run_plain(self, main: Callable[..., Any], errand: Errand, outbox: Outbox) -> None:
        popleft, jobs, strict, yielded = errand.waiting.popleft, errand.jobs, errand.terms.strict, errand.yielded
        states, max_result, append = errand.states, self.max_result, outbox.ended.append
        waiting, touched, pending = errand.waiting, self.conduct.touched, 0
        out, err, memory = sys.stdout, sys.stderr, self._memory
        started = perf_counter()
        due = started + LOOK_EVERY
        while not self.leaving:
            try:
                position = popleft()
            except IndexError:
                return
            job = jobs[position]
            states[position] = STARTED
            began = self.began = perf_counter()
            if strict and (refused := self.admit(position, job, errand, began)) is not None:
                append((position, job, b"", refused, 0.0, began - started, b""))
                states[position] = ENDED
                continue
            try:
                self.current = position
                args, kwargs = job.args, job.kwargs
                arguments = _decode_args(args) if args else ()
                result = main(*arguments, **_decode_kwargs(kwargs)) if kwargs else main(*arguments)
                try:
                    value = encode_value(result, max_result)
                except ResultNotJSON:
                    value = None
                if value is None:  # not within the handler, which would become part of what is reported
                    value = encode_value(self._partials.complete(result), max_result)
                result, arguments = None, ()  # what goes with these runs a user's code, in the job's own time
                self.current = -1
            except BaseException as error:  # noqa: BLE001 - a user's code runs here, and may call sys.exit as well
                memory.spare, self.current = None, -1
                failure = self.weigh(position, error, errand)
            else:
                ended = perf_counter()
                if ended > due or touched or not waiting or sys.stdout is not out or sys.stderr is not err:
                    due = ended + LOOK_EVERY
                    if (changed := self._look(outbox)) is not None:
                        self._fail_changed(position, changed, errand, outbox, began=began, started=started)
                        return
                partials = encoded(yielded, position) if yielded else b""
                append((position, job, value, None, ended - began, began - started, partials))
                states[position] = ENDED
                pending += len(value)
                if pending > MAX_PENDING and not self.leaving:
                    outbox.flush()
                    pending = 0
                continue
            result, arguments = None, ()
            self.fail(position, failure, errand, outbox, began=began, started=started)
            self._mind(outbox)

    def _fail_changed(
        self, position: int, changed: ProcessChanged, errand: Errand, outbox: Outbox, *, began: float, started: float
    ) -> None:
        failure = self.weigh(position, changed, errand)
        self.fail(position, failure, errand, outbox, began=began, started=started)
        self._looked = len(outbox.ended)

    def leave(self, changed: ProcessChanged) -> None:
        """Begin no further job in this process."""
        self.leaving = changed.message

    def _look(self, outbox: Outbox) -> ProcessChanged | None:
        """After a job that has not failed: what it has left changed, if it was surely this one. Sets `leaving`."""
        with self._memory.relaxed():
            changed, surely = self.conduct.look()
        alone = len(outbox.ended) == self._looked
        if self.conduct.by_thread and not (self._fresh and not outbox.ended):
            alone = False  # a job before it may have left the thread; this one shows in a fresh process whether it does
        if changed is None:
            self._looked = len(outbox.ended) + 1
            return None
        self.leave(changed)
        return changed if surely or alone else None

    def _mind(self, outbox: Outbox) -> None:
        """After a job that has failed: it may have left something changed as well."""
        if self.leaving:
            return
        before, self._looked = self._looked, len(outbox.ended)
        with self._memory.relaxed():
            changed, surely = self.conduct.look()
        if changed is not None:
            self.leave(changed)
            if not surely and self._looked - before > 1:
                self._looked = before

    def admit(self, position: int, job: Job, errand: Errand, began: float) -> Failure | None:
        """Set the time limit of a job that begins now; a failure when it must not begin any more."""
        errand.begins[position] = began
        terms = errand.terms.of(job)
        if terms.deadline and _time() > terms.deadline:
            late = f"the job was not started before its deadline; that passed {_time() - terms.deadline:.1f} s ago"
            return Failure(Error(type="DeadlinePassed", message=late, reason=REASON_DEADLINE), None, job.kills)
        # An async job is cancelled by its loop at the limit, so that those beside it need not run again: the process is
        # killed only if that does not help.
        limit = terms.timeout + self._grace if errand.is_async else terms.timeout
        errand.limits[position] = began + limit if terms.timeout else 0.0
        return None

    def weigh(self, position: int, error: BaseException, errand: Errand) -> Failure | None:
        """What is reported of an exception that ended a job; None of a job that was cancelled.

        The exception lets go of its frames, and whoever handles it shall let go of it before the job counts as ended:
        what is in them may run a user's code when it goes, and that takes of the job's own time.
        """
        self._memory.spare = None
        failure, job = None, errand.jobs[position]
        if position not in errand.cancelled:
            with self._memory.relaxed():
                failure = self._policy.decide(error, job, errand.terms.of(job))
        forget_traceback(error)
        return failure

    def fail(
        self, position: int, failure: Failure | None, errand: Errand, outbox: Outbox, *, began: float, started: float
    ) -> None:
        """Note that a job ended by an exception. `began` and `started` are times of the job and of its message."""
        if failure is None:
            errand.yielded.pop(position, None)
            errand.states[position] = SENT
            return
        job = errand.jobs[position]
        duration, partials = perf_counter() - began, encoded(errand.yielded, position)
        ended: Ended = (position, job, b"", failure, duration, began - started, partials)
        outbox.ended.append(ended)
        errand.states[position] = ENDED


def soft_timeout_error(soft_timeout: float) -> SoftTimeout:
    """What is raised in a function after so many seconds."""
    return SoftTimeout(f"the function ran longer than its soft timeout of {soft_timeout:g} s")


def timeout_error(timeout: float) -> TimedOut:
    return TimedOut(f"the function ran longer than its timeout of {timeout:g} s")


def cancelled_error() -> Cancelled:
    """What is raised in a function whose job was cancelled."""
    return Cancelled("the job was cancelled")
