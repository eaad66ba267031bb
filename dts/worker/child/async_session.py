"""Runs async jobs at the same time on an event loop: those of one message, and of others that come meanwhile.

A slow async function has one job in a message, so a child that finished one message before it takes the next would
wait most of its time. While it has room, up to the function's `concurrency`, a session takes messages of the same
function beside those that it works at. It takes one only when the loop is free to look for it, so that a function
which blocks the loop keeps nothing from other children; and after a while it takes no more, so that the process is
put right between two sessions.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Sequence, Sized
from dataclasses import dataclass
from time import perf_counter
from typing import Any, Protocol

import msgspec

from dts.errors import ProcessChanged
from dts.wire.dts_pb2 import JobBatch
from dts.worker.attempt.introspection import forget_traceback, show
from dts.worker.attempt.result_json import encode_value
from dts.worker.attempt.terms import Terms
from dts.worker.child.active_batch import Errand
from dts.worker.child.code.loader import Loaded
from dts.worker.child.eventloop import Loop
from dts.worker.child.helper import Watcher
from dts.worker.child.outbox import MAX_PENDING, Outbox
from dts.worker.child.runner import Runner, soft_timeout_error, timeout_error
from dts.worker.child.yielded import encoded
from dts.worker.link.board import ENDED, MAX_JOBS, STARTED

MAX_AGE = 30.0
"""Seconds for which a session takes further messages."""

_BLOCKED = 0.1
"""Seconds by which a time limit is noticed late when somebody has blocked the event loop."""
_MOMENT = 0.1
"""Seconds that a job has in that case to do what it was kept from."""

_decode_args = msgspec.json.Decoder(list[Any]).decode
_decode_kwargs = msgspec.json.Decoder(dict[str, Any]).decode


@dataclass(slots=True, eq=False)
class Task:
    """A message that a session works at. `on_hold` while its lease is not on record; `left` when jobs of it have not
    begun and never will here.
    """

    errand: Errand
    outbox: Outbox
    active: int = 0
    pending: int = 0  # bytes of results since the last flush
    on_hold: bool = False
    left: bool = False
    watchers: Sequence[Watcher] = ()

    @property
    def ready(self) -> int:
        """How many of its jobs may begin."""
        return 0 if self.on_hold else len(self.errand.waiting)

    @property
    def load(self) -> int:
        """How many of its jobs have begun or may begin soon."""
        return self.active + len(self.errand.waiting)

    @property
    def over(self) -> bool:
        """Whether nothing is left to do for it."""
        return not (self.active or self.on_hold or self.errand.waiting)


class Host(Protocol):
    """The child that a session runs in."""

    @property
    def heard(self) -> Sized:
        """What has come from the worker; always the same object."""

    def next_batch(self) -> JobBatch | None:
        """The message that waits to be taken, if there is any that may run beside others."""

    def take_next(self, first: int) -> Task | None:
        """Begin with it, its jobs at the places from `first` on; None if it was taken back just now."""

    def take_go(self, tickets: set[int]) -> int:
        """A ticket among these whose lease is on record now; 0 for none."""

    def hear(self) -> bool:
        """Read what has come from the worker; False when it has closed its end."""

    def fileno(self) -> int:
        """The descriptor by which it comes."""

    def may_go_on(self, function: Loaded, terms: Terms) -> bool:
        """Whether the process may take one more message of a function, as that was loaded."""

    def attend(self, tasks: Sequence[Task]) -> None:
        """Have the helper thread look after these messages from now on."""

    def finish(self, task: Task) -> None:
        """Send the last results of a message, and that it is done, unless jobs of it are left."""


class Session:
    """One function, and the messages of it that run beside each other."""

    def __init__(self, host: Host, runner: Runner, loop: Loop, function: Loaded, call: Callable[..., Any]) -> None:
        self._host, self._runner, self._kept, self._function, self._call = host, runner, loop, function, call
        self._loop = loop.loop
        self._heard = host.heard
        self._tasks: list[Task] = []
        self._lanes: set[asyncio.Task[None]] = set()
        self._most = 1
        self._over: asyncio.Future[None] = self._loop.create_future()
        self._began = perf_counter()
        self._closed = False
        self._begun = 0  # jobs

    def run(self, first: Task, *, alone: bool) -> None:
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
                    print(f"a task of {self._function.name} raised {show(error)}", file=sys.stderr)  # noqa: T201
        finally:
            self._loop.remove_reader(self._host.fileno())

    # messages

    def _on_readable(self) -> None:
        if not self._host.hear():
            self._loop.remove_reader(self._host.fileno())
        self._pump()

    def _pump(self) -> None:
        """Go on wherever that is possible: take messages, begin jobs, finish what is over."""
        held = {task.errand.ticket: task for task in self._tasks if task.on_hold}
        while held and (ticket := self._host.take_go(set(held))):
            held.pop(ticket).on_hold = False
        self._take_more()
        wanted = min(self._most, sum([task.active + task.ready for task in self._tasks]))
        while len(self._lanes) < wanted:
            lane = self._loop.create_task(self._run_lane())
            self._lanes.add(lane)
            lane.add_done_callback(self._on_lane_end)
        over = [task for task in self._tasks if task.over]
        if over:
            self._tasks = [task for task in self._tasks if not task.over]
            self._host.attend(self._tasks)
        for task in over:
            self._host.finish(task)
        if not self._tasks and not self._over.done():
            self._over.set_result(None)

    def _take_more(self) -> None:
        while not self._closed and self._tasks and sum([task.load for task in self._tasks]) < self._most:
            batch = self._host.next_batch()
            if batch is None or (first := self._place_for(batch)) is None:
                return
            terms = self._tasks[-1].errand.terms.common
            if perf_counter() - self._began > MAX_AGE or not self._host.may_go_on(self._function, terms):
                self._closed = True
                return
            if (task := self._host.take_next(first)) is not None:
                self._runner.begin_beside(task.errand)
                task.outbox.version = self._function.version
                self._add(task)

    def _place_for(self, batch: JobBatch) -> int | None:
        """The first of as many free places as a message needs; None if there are none, or it cannot be beside these."""
        begun = self._tasks[0].errand
        if batch.function != begun.batch.function or any([job.kills for job in batch.jobs]):
            return None
        if batch.options.memory_limit != begun.batch.options.memory_limit:
            return None
        first = 0
        for errand in sorted((task.errand for task in self._tasks), key=lambda errand: errand.first):
            if errand.first - first >= len(batch.jobs):
                break
            first = errand.first + len(errand.jobs)
        return first if first + len(batch.jobs) <= MAX_JOBS else None

    def _add(self, task: Task) -> None:
        task.errand.cancel = self._kept.cancel_soon
        self._tasks.append(task)
        self._most = task.errand.terms.common.concurrency
        self._host.attend(self._tasks)

    # jobs

    def _on_lane_end(self, lane: asyncio.Task[None]) -> None:
        self._lanes.discard(lane)
        if not lane.cancelled() and (error := lane.exception()) is not None:
            print(f"a task of {self._function.name} raised {show(error)}", file=sys.stderr)  # noqa: T201
        self._pump()

    def _next(self) -> tuple[Task, int] | None:
        """The job that is to begin next, off the waiting ones."""
        for task in self._tasks:
            if task.errand.waiting and not task.on_hold:
                try:
                    position = task.errand.waiting.popleft()
                except IndexError:
                    continue  # the helper thread has given it away
                task.active += 1
                return task, position
        return None

    async def _run_lane(self) -> None:
        """Run one job after another, until there are no more that wait."""
        lane = asyncio.current_task()
        assert lane is not None
        while (found := self._next()) is not None:
            task, position = found
            await self._run_job(lane, task, position)
            task.active -= 1
            if lane.cancelling():
                await _forget_cancel(lane)
            if task.pending > MAX_PENDING:
                task.outbox.flush()
                task.pending = 0
            if not (task.active or task.errand.waiting) or (self._heard and not self._closed):
                self._pump()

    async def _run_job(self, lane: asyncio.Task[Any], task: Task, position: int) -> None:
        errand, ended, runner = task.errand, task.outbox.ended, self._runner
        errand.states[position] = STARTED
        began, job = perf_counter(), errand.jobs[position]
        offset = began - errand.began
        if errand.terms.strict and (refused := runner.admit(position, job, errand, began)) is not None:
            ended.append((position, job, b"", refused, 0.0, offset, b""))
            errand.states[position] = ENDED
            return
        self._kept.begin(lane, errand, position)
        self._begun += 1
        try:
            if errand.terms.strict:
                value = await self._call_with_limits(lane, position, errand)
            else:
                value = encode_value(
                    await self._call(*_decode_args(job.args or b"[]"), **_decode_kwargs(job.kwargs or b"{}")),
                    runner.max_result,
                )
            if (runner.conduct.touched or self._begun == 1) and (changed := self._look(errand, position)) is not None:
                raise changed
        except BaseException as error:  # noqa: BLE001 - a user's code runs here, and may cancel its own task
            if runner.conduct.touched:
                self._look(errand, position)
            failure = runner.weigh(position, self._kept.explain(lane, error), errand)
            forget_traceback(error)
        else:
            self._kept.end(lane)
            partials = encoded(errand.yielded, position)
            ended.append((position, job, value, None, perf_counter() - began, offset, partials))
            errand.states[position] = ENDED
            task.pending += len(value)
            return
        self._kept.end(lane)
        runner.fail(position, failure, errand, task.outbox, began=began, started=errand.began)

    def _look(self, errand: Errand, position: int) -> ProcessChanged | None:
        """What a job that ends now has left changed. If it has, no more begin here; those at work go on."""
        conduct = self._runner.conduct
        changed = conduct.left(errand, position)
        if changed is None and self._begun == 1:
            changed, _ = conduct.look()  # nobody else can have done it
        if changed is not None:
            self._runner.leave(changed)
            self._closed = True
            for task in self._tasks:
                task.left = task.left or bool(task.errand.waiting)
                task.errand.waiting.clear()
        return changed

    async def _call_with_limits(self, lane: asyncio.Task[Any], position: int, errand: Errand) -> bytes:
        job = errand.jobs[position]
        timers = self._set_timers(position, errand, errand.terms.of(job))
        try:
            arguments = _decode_args(job.args or b"[]")
            result = await self._call(*arguments, **_decode_kwargs(job.kwargs or b"{}"))
            value = encode_value(result, self._runner.max_result)
            if self._kept.is_overdue(lane):  # it has swallowed the cancel
                raise asyncio.CancelledError
            return value
        finally:
            for timer in timers:
                timer.cancel()

    def _set_timers(self, position: int, errand: Errand, terms: Terms) -> list[asyncio.TimerHandle]:
        """Have a job cancelled at its time limits."""
        limits = [(terms.soft_timeout, soft_timeout_error), (terms.timeout, timeout_error)]
        now, expire = self._loop.time(), self._expire
        return [
            self._loop.call_later(limit, expire, now + limit, errand, position, make(limit))
            for limit, make in limits
            if limit
        ]

    def _expire(self, due: float, errand: Errand, position: int, cause: BaseException) -> None:
        """A job has passed a limit. If another one has blocked the loop over that, it has a moment more."""
        late = self._loop.time() - due
        if late < _BLOCKED or (errand, position) not in self._kept.tasks.values():
            self._kept.cancel(errand, position, cause)
            return
        if errand.limits[position]:
            errand.limits[position] += late + _MOMENT
        self._loop.call_later(_MOMENT, self._kept.cancel, errand, position, cause)


async def _forget_cancel(task: asyncio.Task[Any]) -> None:
    """Take back a cancel that a job has got and not taken, lest it hits the next one."""
    while task.cancelling():
        task.uncancel()
    try:
        await asyncio.sleep(0)
    except asyncio.CancelledError:
        while task.cancelling():
            task.uncancel()
