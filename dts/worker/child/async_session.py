"""Runs async jobs at the same time on an event loop: those of one message, and of others that come meanwhile.

A slow async function has one job in a message, so a child that finished one message before it takes the next would
wait most of its time. While it has room, up to the function's `concurrency`, a session takes messages of the same
function beside those that it works at. It takes one only when the loop is free to look for it, so that a function
which blocks the loop keeps nothing from other children; and after a while it takes no more, so that the process is
checked between two sessions.

Each job is a entry of its own, in a copy of the context in which its module was imported: no job sees the context
variables of another one, and its entry ends when it does.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Sequence, Sized
from contextvars import copy_context
from dataclasses import dataclass
from functools import partial
from time import perf_counter
from typing import Any, Protocol

import msgspec

from dts.wire.dts_pb2 import Job, JobBatch
from dts.worker.attempt.introspection import forget_traceback, show
from dts.worker.attempt.result_json import encode_value
from dts.worker.attempt.terms import Terms
from dts.worker.child.active_batch import ActiveBatch
from dts.worker.child.code.loader import Loaded
from dts.worker.child.eventloop import Loop
from dts.worker.child.helper import Watcher
from dts.worker.child.outbox import MAX_PENDING, Outbox
from dts.worker.child.runner import Runner, soft_timeout_error, timeout_error
from dts.worker.child.yielded import encoded
from dts.worker.link.board import ENDED, MAX_JOBS, PENDING, STARTED

MAX_AGE = 30.0
"""Seconds for which a session takes further messages."""

_BLOCKED = 0.1
"""Seconds from which a time limit counts as noticed late, since a job has blocked the event loop."""
_MOMENT = 0.1
"""Seconds that a job has in that case to do what it was kept from."""

_decode_args = msgspec.json.Decoder(list[Any]).decode
_decode_kwargs = msgspec.json.Decoder(dict[str, Any]).decode


@dataclass(slots=True, eq=False)
class SessionBatch:
    """A message that a session works at. `on_hold` while its lease is not on record."""

    batch: ActiveBatch
    outbox: Outbox
    active: int = 0
    pending: int = 0  # bytes of results since the last flush
    on_hold: bool = False
    watchers: Sequence[Watcher] = ()

    @property
    def ready(self) -> int:
        """How many of its jobs may begin."""
        return 0 if self.on_hold else len(self.batch.waiting)

    @property
    def load(self) -> int:
        """How many of its jobs have begun or may begin soon."""
        return self.active + len(self.batch.waiting)

    @property
    def over(self) -> bool:
        """Whether nothing is left to do for it."""
        return not (self.active or self.on_hold or self.batch.waiting)


class Host(Protocol):
    """The child that a session runs in."""

    @property
    def heard(self) -> Sized:
        """What has come from the worker; always the same object."""

    def next_batch(self) -> JobBatch | None:
        """The message that waits to be taken, if there is any that may run beside others."""

    def take_next(self, first: int) -> SessionBatch | None:
        """Begin with it, its jobs at the places from `first` on; None if it was taken back just now."""

    def take_go(self, tickets: set[int]) -> int:
        """A ticket among these whose lease is on record now; 0 for none."""

    def hear(self) -> bool:
        """Read what has come from the worker; False when it has closed its end."""

    def fileno(self) -> int:
        """The descriptor by which it comes."""

    def may_go_on(self, terms: Terms) -> bool:
        """Whether the process may take one more message of the function, as that was loaded."""

    def attend(self, tasks: Sequence[SessionBatch]) -> None:
        """Have the helper thread look after these messages from now on."""

    def finish(self, entry: SessionBatch) -> None:
        """Send the last results of a message, and that it is done."""


class Session:
    """One function, and the messages of it that run beside each other."""

    def __init__(self, host: Host, runner: Runner, loop: Loop, function: Loaded, call: Callable[..., Any]) -> None:
        self._host, self._runner, self._kept, self._function, self._call = host, runner, loop, function, call
        self._loop = loop.loop
        self._heard = host.heard
        self._context = copy_context()
        self._entries: list[SessionBatch] = []
        self._at_work = 0  # jobs
        self._most = 1
        self._over: asyncio.Future[None] = self._loop.create_future()
        self._began = perf_counter()
        self._closed = False

    def run(self, first: SessionBatch, *, alone: bool) -> None:
        """Run a message, and unless it must be `alone` others beside it, to the end of the last one."""
        self._closed = alone
        self._add(first)
        self._pump()
        self._loop.add_reader(self._host.fileno(), self._on_readable)
        try:
            while not self._over.done():
                try:
                    self._loop.run_until_complete(self._over)
                except BaseException as error:  # noqa: BLE001 - from a task that a user's code left behind
                    self._print(error)
        finally:
            self._loop.remove_reader(self._host.fileno())

    def _print(self, error: BaseException) -> None:
        print(f"a task of {self._function.name} raised {show(error)}", file=sys.stderr)  # noqa: T201

    # messages

    def _on_readable(self) -> None:
        if not self._host.hear():
            self._loop.remove_reader(self._host.fileno())
        self._pump()

    def _pump(self) -> None:
        """Go on wherever that is possible: take messages, begin jobs, finish what is over."""
        held = {entry.batch.ticket: entry for entry in self._entries if entry.on_hold}
        while held and (ticket := self._host.take_go(set(held))):
            held.pop(ticket).on_hold = False
        self._take_more()
        self._begin_jobs()
        over = [entry for entry in self._entries if entry.over]
        if over:
            self._entries = [entry for entry in self._entries if not entry.over]
            self._host.attend(self._entries)
        for entry in over:
            self._host.finish(entry)
        if not self._entries and not self._over.done():
            self._over.set_result(None)

    def _take_more(self) -> None:
        while not self._closed and self._entries and sum([entry.load for entry in self._entries]) < self._most:
            batch = self._host.next_batch()
            if batch is None or (first := self._place_for(batch)) is None:
                return
            terms = self._entries[-1].batch.terms.common
            if perf_counter() - self._began > MAX_AGE or not self._host.may_go_on(terms):
                self._closed = True
                return
            if (entry := self._host.take_next(first)) is not None:
                self._runner.begin_beside(entry.batch)
                entry.outbox.version = self._function.version
                self._add(entry)

    def _place_for(self, batch: JobBatch) -> int | None:
        """The first of as many free places as a message needs; None if there are none, or it cannot be beside these."""
        begun = self._entries[0].batch
        if batch.function != begun.batch.function or any([job.kills for job in batch.jobs]):
            return None
        if batch.options.memory_limit != begun.batch.options.memory_limit:
            return None
        first = 0
        for other in sorted((entry.batch for entry in self._entries), key=lambda other: other.first):
            if other.first - first >= len(batch.jobs):
                break
            first = other.first + len(other.jobs)
        return first if first + len(batch.jobs) <= MAX_JOBS else None

    def _add(self, entry: SessionBatch) -> None:
        entry.batch.cancel = self._kept.cancel_soon
        self._entries.append(entry)
        self._most = entry.batch.terms.common.concurrency
        self._host.attend(self._entries)

    # jobs

    def _begin_jobs(self) -> None:
        while self._at_work < self._most and (found := self._next()) is not None:
            entry, position = found
            self._at_work += 1
            task = self._loop.create_task(self._run_job(entry, position), context=self._context.copy())
            task.add_done_callback(partial(self._on_job_end, entry, position))

    def _on_job_end(self, entry: SessionBatch, position: int, task: asyncio.Task[None]) -> None:
        self._at_work -= 1
        entry.active -= 1
        if entry.batch.states[position] == PENDING:  # cancelled by another job before its first step
            entry.batch.waiting.appendleft(position)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._print(error)
        if entry.pending > MAX_PENDING:
            entry.outbox.flush()
            entry.pending = 0
        if not (entry.active or entry.batch.waiting) or (self._heard and not self._closed):
            self._pump()
        else:
            self._begin_jobs()

    def _next(self) -> tuple[SessionBatch, int] | None:
        """The job that is to begin next, off the waiting ones."""
        for entry in self._entries:
            if entry.batch.waiting and not entry.on_hold:
                try:
                    position = entry.batch.waiting.popleft()
                except IndexError:
                    continue  # the helper thread has given it away
                entry.active += 1
                return entry, position
        return None

    async def _run_job(self, entry: SessionBatch, position: int) -> None:
        batch, ended, runner, kept = entry.batch, entry.outbox.ended, self._runner, self._kept
        batch.states[position] = STARTED
        began, job = perf_counter(), batch.jobs[position]
        offset = began - batch.began
        if batch.terms.strict and (refused := runner.admit(position, job, batch, began)) is not None:
            ended.append((position, job, b"", refused, 0.0, offset, b""))
            batch.states[position] = ENDED
            return
        task = asyncio.current_task()
        assert task is not None
        kept.begin(task, batch, position)
        try:
            value = await (self._call_with_limits(task, position, batch) if batch.terms.strict else self._call_job(job))
            if runner.alarms.armed:
                runner.alarms.disarm(batch, position)
        except BaseException as error:  # noqa: BLE001 - a user's code runs here, and may cancel its own task
            failure = runner.decide(position, kept.explain(task, error), batch)
            forget_traceback(error)
        else:
            kept.end(task)
            partials = encoded(batch.yielded, position)
            ended.append((position, job, value, None, perf_counter() - began, offset, partials))
            batch.states[position] = ENDED
            entry.pending += len(value)
            return
        kept.end(task)
        runner.fail(position, failure, batch, entry.outbox, began=began, started=batch.began)

    async def _call_job(self, job: Job) -> bytes:
        arguments = _decode_args(job.args or b"[]")
        result = await self._call(*arguments, **_decode_kwargs(job.kwargs or b"{}"))
        return encode_value(result, self._runner.max_result)

    async def _call_with_limits(self, task: asyncio.Task[Any], position: int, batch: ActiveBatch) -> bytes:
        job = batch.jobs[position]
        timers = self._set_timers(position, batch, batch.terms.of(job))
        try:
            value = await self._call_job(job)
            if self._kept.is_overdue(task):  # it has swallowed the cancel
                raise asyncio.CancelledError
            return value
        finally:
            for timer in timers:
                timer.cancel()

    def _set_timers(self, position: int, batch: ActiveBatch, terms: Terms) -> list[asyncio.TimerHandle]:
        """Have a job cancelled at its time limits."""
        limits = [(terms.soft_timeout, soft_timeout_error), (terms.timeout, timeout_error)]
        now, expire = self._loop.time(), self._expire
        return [
            self._loop.call_later(limit, expire, now + limit, batch, position, make(limit))
            for limit, make in limits
            if limit
        ]

    def _expire(self, due: float, batch: ActiveBatch, position: int, cause: BaseException) -> None:
        """A job has passed a limit. If another one has blocked the loop over that, it has a moment more."""
        late = self._loop.time() - due
        if late < _BLOCKED or (batch, position) not in self._kept.tasks.values():
            self._kept.cancel(batch, position, cause)
            return
        if batch.limits[position]:
            batch.limits[position] += late + _MOMENT
        self._loop.call_later(_MOMENT, self._kept.cancel, batch, position, cause)
