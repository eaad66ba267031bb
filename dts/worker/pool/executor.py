"""Runs assignments in child processes, as many at a time as the worker has slots.

A child belongs to the namespace of the first message that it is given, or to the deployed version that this names, and
runs no other's functions: so none of them sees what another one has done to the process. A child that has nothing to do
stays, with all that it has imported, until others were used more recently (`warm_children`) or memory gets short.
Beside them there is always a blank child, forked in advance, so that a message of another namespace or version waits
for its imports only.

A child that works at quick messages is given one more than it works at, so that it never waits for the worker. When
a slot gets free, or the message at work turns out to be slow, what was given ahead is taken back and goes to another
child: a short message never waits behind a long job while a slot is free. Where none is, other workers take it: see
`dts.worker.queues.pacer`.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable
from functools import partial
from itertools import islice
from typing import Protocol

from dts.config import WorkerSettings
from dts.errors import WireError
from dts.runtime.service import Service
from dts.worker.link.frames import Frame, Kind
from dts.worker.link.options import ChildOptions
from dts.worker.link.procfs import free_memory_percent
from dts.worker.pool.child_process import Assignment, ChildProcess
from dts.worker.pool.crash import Crash, cause_of, crashes_of
from dts.worker.pool.log_check import RecordCheck
from dts.worker.pool.nursery import Nursery
from dts.worker.pool.roster import Roster
from dts.worker.pool.turns import next_turn

logger = logging.getLogger(__name__)

_UNMANNED = 1.0  # seconds without a child for a free slot after which none is expected soon
_MEASURE_EVERY = 1.0  # seconds between two measurements of the machine's memory


class Listener(Protocol):
    """Hears what becomes of assignments. Each ends with on_done, on_dead, on_crash or on_failed, or is given back."""

    def on_results(self, assignment: Assignment, frame: Frame) -> None:
        """Part of its results have come."""

    def on_done(self, assignment: Assignment) -> None:
        """All its results have come."""

    def on_dead(self, assignment: Assignment, reason: str) -> None:
        """Its body is not a batch of jobs."""

    def on_crash(self, assignment: Assignment, crash: Crash) -> None:
        """Its child died."""

    def on_failed(self, assignment: Assignment, error: Exception) -> None:
        """It could not be given to a child, or its answers could not be handled. More calls about it may follow."""

    def on_given(self, assignment: Assignment, frame: Frame) -> None:
        """Jobs of it are to run in another child or worker."""

    def on_begun(self, assignment: Assignment) -> None:
        """A child has begun with it, and could run others concurrently."""

    def on_claim(self, assignment: Assignment, frame: Frame, go: Callable[[], None]) -> None:
        """Its jobs are to be run under a lease; it goes on when `go` is called."""

    def on_log(self, frame: Frame) -> None:
        """A function has logged something."""

    def on_ready(self) -> None:
        """There is a further child."""

    def on_replaced(self, function: str) -> None:
        """A child has ended by itself, after jobs of this function and maybe of others, so that a fresh one comes."""


class Executor(Service):
    """Runs assignments in children, at most `processes` at a time."""

    def __init__(self, options: ChildOptions, processes: int, listener: Listener) -> None:
        super().__init__()
        self.processes = processes
        self.options = options
        """The options of children that are started from here on."""
        self.looks_ahead = False
        """Whether quick children are given one message ahead: as soon as half of the slots have one."""
        self._listener = listener
        self._nursery = Nursery(self)
        self._records = RecordCheck(options.name)
        self._roster = Roster()
        self._leaving: set[ChildProcess] = set()
        self._waiting: deque[Assignment] = deque()
        self._manned = self._measured = 0.0  # times (monotonic): when there last was a child for a free slot, and so on
        self._warm, self._scarce = 0, 0.0
        self._tickets = 0
        self._changed = asyncio.Event()

    async def _start(self) -> None:
        self._manned = time.monotonic()
        self._nursery.failed = self.failed
        await self._stack.enter_async_context(self._nursery)

    @property
    def children(self) -> list[ChildProcess]:
        """The children that are ready."""
        return list(self._roster)

    @property
    def pids(self) -> list[int]:
        """The process ids of the children that belong to a namespace or a version."""
        return [child.pid for child in (*self._roster.working, *self._roster.idle)]

    @property
    def slots(self) -> int:
        """How many messages can be worked at, at a time, without those that run beside others; 0 without children."""
        return max(self.processes, len(self._roster.working)) if len(self._roster) else 0

    @property
    def leaving(self) -> list[ChildProcess]:
        """The children that are to end by themselves, or have said that they do."""
        return list(self._leaving)

    @property
    def busy(self) -> bool:
        """Whether any assignment is not finished."""
        return bool(self._waiting or self._roster.working) or any(child.given for child in self._leaving)

    @property
    def capacity(self) -> int:
        """How many assignments its children have or could have now."""
        working, idle, ahead = self._roster.working, self._roster.idle, self.looks_ahead
        room = 0
        for child in working:
            room += len(child.given) if child.retiring else child.limit(ahead=ahead)
        free = self.processes - len(working)
        if free > 0 and (working or idle or self._roster.blank):
            room += free
            if ahead:
                for child in islice(reversed(idle), free):  # those used last are the quick ones
                    room += child.pace.quick
        return room

    @property
    def _free_slots(self) -> int:
        return self.processes - len(self._roster.working)

    @property
    def has_idle_child(self) -> bool:
        """Whether a child has nothing to do and a slot is free for it."""
        return self._free_slots > 0 and bool(self._roster.idle or self._roster.blank)

    def measure(self, now: float) -> None:
        """Measure the children's pace, and take back what waits for a slow one. `now` is monotonic, in seconds."""
        quick = 0
        for child in self._roster:
            child.measure(now)
            quick += child.pace.quick and not (child.retiring or child.beside)
        self.looks_ahead = self.processes <= 2 * min(quick, self.processes)
        if self._roster.idle or self._roster.blank:
            self._manned = now
        for child in list(self._roster.working):
            if child.pace.engaged and len(child.given) > max(child.beside, 1):
                self._recall(child)
        if now - self._measured >= _MEASURE_EVERY:
            self._measured = now
            self._save_memory()
        self._dispatch()

    def is_engaged(self, now: float) -> bool:
        """Whether no child is likely to begin anything soon, `now` being monotonic, as of the last measurement."""
        if self._free_slots > 0 and now - self._manned <= _UNMANNED:
            return False
        return all([child.pace.engaged for child in self._roster.working if not child.retiring])

    # assignments

    def submit(self, assignment: Assignment) -> None:
        """Run an assignment when its turn comes."""
        assignment.submitted = assignment.submitted or time.monotonic()
        self._waiting.append(assignment)
        self._dispatch()

    def take_waiting(self, which: Callable[[Assignment], bool]) -> list[Assignment]:
        """Take back some of the assignments that no child has."""
        taken = [assignment for assignment in self._waiting if which(assignment)]
        self._waiting = deque([assignment for assignment in self._waiting if assignment not in taken])
        self._changed.set()
        return taken

    def take_back(self) -> list[Assignment]:
        """Take back every assignment that no child has begun."""
        for child in list(self._roster.working):
            self._recall(child)
        taken = list(self._waiting)
        self._waiting.clear()
        self._changed.set()
        return taken

    async def wait_idle(self) -> None:
        """Wait until every assignment is finished or taken back."""
        while self.busy:
            self._changed.clear()
            await self._changed.wait()

    def _recall(self, child: ChildProcess) -> None:
        """Have the assignments that a child has not begun wait again, before all others."""
        self._waiting.extendleft(reversed(child.recall()))
        if child in self._roster:
            self._roster.place(child)

    def _dispatch(self) -> None:
        """Give waiting assignments to children, and see that there are blank ones and not too many idle ones."""
        self._give_waiting()
        if self._free_slots > 0 and self._share_out():
            self._give_waiting()
        for child in self._roster.surplus(max(self._warm, self.processes)):
            self._retire(child, "others were used more recently")
        if self._waiting or not self._roster.blank:
            self._nursery.check()

    def _give_waiting(self) -> None:
        while (
            self._waiting
            and (found := next_turn(self._waiting, self._roster, self._free_slots, ahead=self.looks_ahead)) is not None
        ):
            assignment, child = found
            self._waiting.remove(assignment)
            self._give(child, assignment)

    def _give(self, child: ChildProcess, assignment: Assignment) -> None:
        self._tickets += 1
        try:
            child.give(assignment, self._tickets)
        except Exception as error:  # noqa: BLE001 - whatever is in a message, it must not end the worker
            self._listener.on_failed(assignment, error)
            self._changed.set()
        else:
            self._roster.place(child)

    def _share_out(self) -> bool:
        """Take back what was given ahead to a child, if there is another one for it now; returns whether any was."""
        for child in self._roster.working:
            if child.load > 1 and (self._roster.blank or self._roster.idle_of(child.scope)):
                before = len(self._waiting)
                self._recall(child)
                return len(self._waiting) > before
        return False

    # children

    def keep_warm(self, settings: WorkerSettings) -> None:
        """Keep as many idle children as the settings say, fewer from twice the free memory on that stops the worker."""
        self._warm, self._scarce = settings.warm_children, 2 * settings.min_memory_percent

    def resize(self, processes: int) -> None:
        """Work at another number of messages at a time. What has begun goes on."""
        self.processes = processes
        self._dispatch()

    def renew(self, options: ChildOptions) -> None:
        """Replace all children by ones with other options, each when it has done what it has begun."""
        self.options = options
        for child in (*self._roster, *self._nursery.starting):
            self._retire(child, "the configuration has changed")
        self._dispatch()

    def _retire(self, child: ChildProcess, why: str) -> None:
        child.retiring = why
        self._recall(child)
        self._let_go(child)

    def _let_go(self, child: ChildProcess) -> None:
        """End a child that is to go, if it has nothing to do."""
        if child.retiring and not child.given and child in self._roster:
            child.leaving = child.retiring
            self._roster.discard(child)
            self._leaving.add(child)
            child.finish()

    def _save_memory(self) -> None:
        """End half of the idle children when memory gets short, before the worker has to stop taking work for that."""
        if self._roster.idle and free_memory_percent() < self._scarce:
            self._retire_idle("memory is short")

    def on_no_child(self) -> None:
        """End half of the idle children: they hold the descriptors or process ids that a new one lacks."""
        self._retire_idle("no other child can be started")

    def _retire_idle(self, why: str) -> None:
        for child in self._roster.surplus(len(self._roster.idle) // 2):
            self._retire(child, why)

    def lacks(self, starting: int) -> bool:
        """Whether there are fewer blank children than waiting messages want, and one more, when some are starting."""
        wanted = 1 + min(max(self._free_slots, 0), len(self._waiting))
        return len(self._roster.blank) + starting < wanted

    # what children say, and how they end

    def on_frame(self, child: ChildProcess, frame: Frame) -> None:
        """A child has sent a frame."""
        if frame.kind == Kind.READY and not child.ready:
            self._nursery.on_ready(child)
            self._roster.place(child)
            self._let_go(child)
            self._dispatch()
            self._listener.on_ready()
            return
        if frame.kind in (Kind.LOG, Kind.BYE):
            self._on_word(child, frame)
            return
        assignment = child.find(frame.ticket)
        try:
            self._on_answer(child, assignment, frame)
        except WireError:
            raise  # the child's fault, which is killed for it
        except Exception as error:  # noqa: BLE001 - what came of a message must not end the worker either
            self._listener.on_failed(assignment, error)

    def _on_answer(self, child: ChildProcess, assignment: Assignment, frame: Frame) -> None:
        if frame.kind in (Kind.RESULTS, Kind.DONE):
            child.ran[assignment.function] += frame.jobs
        if frame.kind in (Kind.RESULTS, Kind.RUNNING):
            self._listener.on_results(assignment, frame)
            return
        if frame.kind == Kind.GIVEN:
            self._listener.on_given(assignment, frame)
            return
        if frame.kind == Kind.CLAIM:
            child.on_hold += 1
            self._listener.on_claim(assignment, frame, partial(child.go, frame.ticket))
            return
        if frame.kind == Kind.BEGUN:
            child.begun(assignment, frame)
            self._dispatch()
            self._listener.on_begun(assignment)
            return
        self._on_finished(child, assignment, frame)

    def _on_finished(self, child: ChildProcess, assignment: Assignment, frame: Frame) -> None:
        child.done(assignment)
        if child in self._roster:
            self._roster.place(child)
        if child.output is not None and not child.given:
            child.output.forget()
        self._let_go(child)
        self._dispatch()  # before anything else: the child may have nothing to do
        if frame.kind == Kind.DEAD:
            self._listener.on_dead(assignment, frame.body.decode(errors="replace"))
        else:
            if frame.jobs:
                self._listener.on_results(assignment, frame)
            self._listener.on_done(assignment)
        self._changed.set()

    def _on_word(self, child: ChildProcess, frame: Frame) -> None:
        if frame.kind == Kind.LOG:
            self._listener.on_log(frame._replace(body=self._records.checked(frame.body, child.given)))
            return
        child.leaving = frame.body.decode(errors="replace")
        self._roster.discard(child)
        self._leaving.add(child)
        self._recall(child)
        self._dispatch()

    def on_end(self, child: ChildProcess, code: int) -> None:
        """A child has ended: what it had not begun waits again, and the listener decides about the rest."""
        self._leaving.discard(child)
        self._roster.discard(child)
        self._changed.set()
        if self._nursery.stopping:
            return
        crashed = child.at_work
        self._waiting.extendleft(reversed(list(child.given)[len(crashed) :]))
        child.given.clear()
        _report_crash(self._listener, child, crashed, code)
        if child.leaving and not child.retiring:
            self._listener.on_replaced(crashed[-1].function if crashed else child.last)
        if child.leaving and not crashed:
            logger.info("child %d was replaced: %s%s", child.pid, child.leaving, child.say_what_ran())
        elif not crashed:
            logger.warning("child %d %s", child.pid, cause_of(child, code)[0])
        self._dispatch()


def _report_crash(listener: Listener, child: ChildProcess, crashed: list[Assignment], code: int) -> None:
    left = list(crashed)
    try:
        for assignment, crash in crashes_of(child, crashed, code):
            listener.on_crash(assignment, crash)
            left.remove(assignment)
    except Exception as error:  # noqa: BLE001 - a message that cannot be taken apart must not end the worker
        for assignment in left:
            listener.on_failed(assignment, error)
