"""A pool of children: hands each of them work, and replaces those that die.

A child that works at quick messages is given one more than it works at, so that it never waits for the worker. When
another child runs out of work, or the one at work turns out to take its time, what was given ahead is taken back and
goes to another child: a short message never waits behind a long job while a child is free. Where none is, others take
it: see `dts.worker.queues.pacer`.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Protocol

from dts.errors import WireError
from dts.runtime.backoff import Backoff
from dts.runtime.service import Service
from dts.worker.link.frames import Frame, Kind
from dts.worker.link.options import ChildOptions
from dts.worker.pool.child_process import Assignment, ChildProcess, say_end
from dts.worker.pool.crash import Crash, cause_of, crashes_of
from dts.worker.pool.log_check import RecordCheck
from dts.worker.pool.spawner import Spawner

logger = logging.getLogger(__name__)

_FIRST_PAUSE, _LONGEST_PAUSE = 0.2, 10.0  # seconds between attempts to start a child that does not come up
_UNMANNED = 1.0  # seconds without a child that could work after which none is expected soon
_STOP_TIMEOUT = 1.0  # seconds that an idle child has to end by itself


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
        """It could not be handed to a child, or what came of it could not be handled. Others may follow, in vain."""

    def on_given(self, assignment: Assignment, frame: Frame) -> None:
        """Jobs of it shall be run by somebody else."""

    def on_begun(self, assignment: Assignment) -> None:
        """A child has begun with it, and could begin with others beside it."""

    def on_claim(self, assignment: Assignment, frame: Frame, go: Callable[[], None]) -> None:
        """Its jobs are to be run under a lease; it goes on when `go` is called."""

    def on_log(self, frame: Frame) -> None:
        """A function has logged something."""

    def on_ready(self) -> None:
        """There is a further child."""

    def on_replaced(self, function: str) -> None:
        """A child has ended by itself, after jobs of this function and maybe of others, so that a fresh one comes."""


class Executor(Service):
    """Keeps `processes` children alive, and runs assignments in them."""

    def __init__(self, options: ChildOptions, processes: int, listener: Listener) -> None:
        super().__init__()
        self.processes = processes
        self.options = options
        """What children that are started from here on are told."""
        self._listener = listener
        self._spawner = Spawner(options.settings.child_user)
        self._records = RecordCheck(options.name)
        self._children: list[ChildProcess] = []  # those that are ready
        self._starting: set[ChildProcess] = set()
        self._leaving: set[ChildProcess] = set()
        self._waiting: deque[Assignment] = deque()
        self.looks_ahead = False
        """Whether children that are quick are given something ahead, since at least half of all are."""
        self._manned = 0.0  # the time (monotonic) at which there last was a child that could work
        self._keepers = 0
        self._tickets = 0
        self._stopping = False
        self._changed = asyncio.Event()

    async def _start(self) -> None:
        self._manned = time.monotonic()
        await self._stack.enter_async_context(self._spawner)
        self._keep_enough()
        self._stack.push_async_callback(self._end_children)

    def _keep_enough(self) -> None:
        while self._keepers < self.processes:
            self._keepers += 1
            self._spawn(self._keep_child(), f"child {self._keepers}")

    @property
    def pids(self) -> list[int]:
        """The process ids of the children that are ready."""
        return [child.pid for child in self._children]

    @property
    def children(self) -> list[ChildProcess]:
        """The children that are ready."""
        return self._children

    @property
    def leaving(self) -> list[ChildProcess]:
        """The children that are to end by themselves, or have said that they do."""
        return list(self._leaving)

    @property
    def busy(self) -> bool:
        """Whether any assignment is not finished."""
        return bool(self._waiting) or any(child.given for child in (*self._children, *self._leaving))

    @property
    def capacity(self) -> int:
        """How many assignments its children have or could have now."""
        ahead = self.looks_ahead
        return sum([len(child.given) if child.retiring else child.limit(ahead=ahead) for child in self._children])

    def look(self, now: float) -> None:
        """See how children get on; take back what waits for one that takes its time. `now` is monotonic, in seconds."""
        quick = staying = 0
        for child in self._children:
            child.look(now)
            staying += not child.retiring
            quick += child.pace.quick and not (child.retiring or child.beside)
        self.looks_ahead = 0 < staying <= 2 * quick
        if staying:
            self._manned = now
        for child in self._children:
            if child.pace.engaged and len(child.given) > max(child.beside, 1):
                self._waiting.extendleft(reversed(child.recall()))
        self._dispatch()

    def is_engaged(self, now: float) -> bool:
        """Whether no child is likely to begin anything soon, `now` being monotonic, as of the last look."""
        staying = [child for child in self._children if not child.retiring]
        return all([child.pace.engaged for child in staying]) if staying else now - self._manned > _UNMANNED

    def take_waiting(self, which: Callable[[Assignment], bool]) -> list[Assignment]:
        """Take back some of the assignments that no child has."""
        taken = [assignment for assignment in self._waiting if which(assignment)]
        self._waiting = deque([assignment for assignment in self._waiting if assignment not in taken])
        self._changed.set()
        return taken

    @property
    def extra(self) -> int:
        """How many assignments children work at beside another one, since their function is async."""
        return sum([child.extra for child in self._children])

    def resize(self, processes: int) -> None:
        """Keep another number of children. Those that are too many end when they have done what they have begun."""
        self.processes = processes
        self._keep_enough()
        surplus = self._keepers - processes - sum([bool(child.retiring) for child in self._children])
        staying = sorted([child for child in self._children if not child.retiring], key=_load)
        for child in staying[: max(surplus, 0)]:
            self._retire(child, "there are to be fewer")
        self._dispatch()

    def renew(self, options: ChildOptions) -> None:
        """Replace all children by ones with other options, each when it has done what it has begun."""
        self.options = options
        for child in (*self._children, *self._starting):
            self._retire(child, "the configuration has changed")
        self._dispatch()

    def _retire(self, child: ChildProcess, why: str) -> None:
        child.retiring = why
        self._waiting.extendleft(reversed(child.recall()))
        self._let_go(child)

    def _let_go(self, child: ChildProcess) -> None:
        """Have a child end that is to do so, if it has nothing to do."""
        if child.retiring and child.ready and not child.given and child in self._children:
            child.leaving = child.retiring
            self._children.remove(child)
            self._leaving.add(child)
            child.finish()

    def submit(self, assignment: Assignment) -> None:
        """Run an assignment when its turn comes."""
        self._waiting.append(assignment)
        self._dispatch()

    def take_back(self) -> list[Assignment]:
        """Take back every assignment that no child has begun."""
        taken = list(self._waiting)
        self._waiting.clear()
        for child in self._children:
            taken += child.recall()
        self._changed.set()
        return taken

    async def wait_idle(self) -> None:
        """Wait until every assignment is finished or taken back."""
        while self.busy:
            self._changed.clear()
            await self._changed.wait()

    def _dispatch(self) -> None:
        """Give waiting assignments to the children that have the least to do; share out what was given ahead."""
        working, ahead = [child for child in self._children if not child.retiring], self.looks_ahead
        while self._waiting:
            free = [child for child in working if len(child.given) < child.limit(ahead=ahead)]
            if not free:
                return
            self._give(min(free, key=_load), self._waiting.popleft())
        idle = next((child for child in working if not child.given), None)
        if idle is None:
            return
        for child in self._children:
            if _load(child) > 1 and (taken := child.recall()):
                self._give(idle, taken[0])
                self._waiting.extendleft(reversed(taken[1:]))
                return self._dispatch()

    def _give(self, child: ChildProcess, assignment: Assignment) -> None:
        self._tickets += 1
        try:
            child.give(assignment, self._tickets)
        except Exception as error:  # noqa: BLE001 - whatever is in a message, it must not end the worker
            self._listener.on_failed(assignment, error)
            self._changed.set()

    def _on_frame(self, child: ChildProcess, frame: Frame) -> None:
        if frame.kind == Kind.READY and not child.ready:
            self._starting.discard(child)
            child.ready = True
            self._children.append(child)
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
        child.done(assignment)
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
        if child in self._children:
            self._children.remove(child)
        self._leaving.add(child)

    async def _keep_child(self) -> None:
        """Have one child alive at all times."""
        backoff = Backoff(_FIRST_PAUSE, _LONGEST_PAUSE)
        while not self._stopping and self._keepers <= self.processes:
            try:
                child = await ChildProcess.start(self.options, self._spawner)
            except OSError as error:
                said, ready = f"cannot be started: {error}", False
            else:
                said, ready = await self._live_with(child)
            if ready or self._stopping:
                backoff.reset()
                continue
            pause = backoff.next_pause()
            logger.error("a child %s before it was ready; the next attempt is in %.1f s", said, pause)
            await asyncio.sleep(pause)
        self._keepers -= 1

    async def _live_with(self, child: ChildProcess) -> tuple[str, bool]:
        """Serve a child until it ends; returns how it did, and whether it was ready before."""
        self._starting.add(child)
        try:
            child.listen(self._on_frame)
            code = await child.wait()
            self._on_end(child, code)
            return say_end(code), child.ready
        finally:
            child.kill()
            if child in self._children:
                self._children.remove(child)
            child.close()

    def _on_end(self, child: ChildProcess, code: int) -> None:
        """See to the assignments of a child that has died."""
        self._starting.discard(child)
        self._leaving.discard(child)
        if child in self._children:
            self._children.remove(child)
        self._changed.set()
        if self._stopping:
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

    async def _end_children(self) -> None:
        """End every child: those that work at once, the idle ones by themselves within a second."""
        self._stopping = True
        ending = [*self._children, *self._starting]
        for child in ending:
            child.kill() if child.given else child.finish()
        deadline = asyncio.get_running_loop().time() + _STOP_TIMEOUT
        while self._children or self._starting:
            self._changed.clear()
            try:
                async with asyncio.timeout_at(deadline):
                    await self._changed.wait()
            except TimeoutError:
                for child in ending:
                    child.kill()
                return


def _load(child: ChildProcess) -> int:
    return len(child.given) - child.extra


def _report_crash(listener: Listener, child: ChildProcess, crashed: list[Assignment], code: int) -> None:
    left = list(crashed)
    try:
        for assignment, crash in crashes_of(child, crashed, code):
            listener.on_crash(assignment, crash)
            left.remove(assignment)
    except Exception as error:  # noqa: BLE001 - a message that cannot be taken apart must not end the worker
        for assignment in left:
            listener.on_failed(assignment, error)
