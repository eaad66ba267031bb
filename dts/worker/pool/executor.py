"""A pool of children: hands each of them work, and replaces those that die.

A child that works at quick messages is given one more than it works at, so that it never waits for the worker. When
another child runs out of work, or the one at work turns out to take its time, what was given ahead is taken back and
goes to another child: a short message never waits behind a long job while a child is free. Where none is, others take
it: see `dts.worker.queues.pacer`.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

from dts.runtime.service import Service
from dts.worker.child.main import ChildOptions
from dts.worker.link.board import ENDED, PENDING, STARTED, Phase, find_state
from dts.worker.link.frames import Frame, Kind
from dts.worker.pool.child_process import REASON_CRASHED, Assignment, ChildProcess, say_end
from dts.worker.pool.log_check import RecordCheck
from dts.worker.pool.spawner import LOST, Spawner

logger = logging.getLogger(__name__)

REASON_KILLED, REASON_EXIT = "killed", "exit"
"""Codes that tell how a child died: of SIGKILL that the worker has not sent, by an exit."""
REASON_LOST, REASON_CANCELLED, REASON_LEFT = "lost", "cancelled", "left"
"""And so: with the template, since its job was cancelled, by itself since a job has left it changed."""

_FIRST_PAUSE, _LONGEST_PAUSE = 0.2, 10.0  # seconds between attempts to start a child that does not come up
_UNMANNED = 1.0  # seconds without a child that could work after which none is expected soon
_STOP_TIMEOUT = 1.0  # seconds that an idle child has to end by itself


@dataclass(frozen=True, slots=True)
class Crash:
    """How a child died at an assignment.

    `suspects` are the positions of the jobs that may have done it. `unsent` are those of all whose results have not
    come, suspects included, and counting on after the last job. `said` reads like "died of SIGSEGV". `reason` is
    one of the codes in `dts.worker.pool.recovery`; `tail` is the last of what the process printed. `others` says
    that there are suspects in messages that ran beside this one. `durations` are seconds for which suspects were at
    work, by position, where that is known. `mixed` says that part of `tail` may be of jobs before these. `alone`
    are positions of jobs that nobody blames yet, and that shall run by themselves. `version` is the function's,
    empty if it is not known.
    """

    phase: Phase
    suspects: list[int]
    unsent: list[int]
    said: str
    reason: str = REASON_CRASHED
    tail: str = ""
    others: bool = False
    durations: dict[int, float] = field(default_factory=dict)
    mixed: bool = False
    alone: list[int] = field(default_factory=list)
    version: str = ""


class Listener(Protocol):
    """Hears what becomes of assignments. Each ends with exactly one of on_done, on_dead, on_crash, or is given back."""

    def on_results(self, assignment: Assignment, frame: Frame) -> None:
        """Part of its results have come."""

    def on_done(self, assignment: Assignment) -> None:
        """All its results have come."""

    def on_dead(self, assignment: Assignment, reason: str) -> None:
        """Its body is not a batch of jobs."""

    def on_crash(self, assignment: Assignment, crash: Crash) -> None:
        """Its child died."""

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
        self._spawner = Spawner()
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
        child.give(assignment, self._tickets)

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
            child.begun(assignment, int(frame.body), frame.jobs)
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
        pause = _FIRST_PAUSE
        while not self._stopping and self._keepers <= self.processes:
            try:
                child = await ChildProcess.start(self.options, self._spawner)
            except OSError as error:
                said, ready = f"cannot be started: {error}", False
            else:
                said, ready = await self._live_with(child)
            if ready or self._stopping:
                pause = _FIRST_PAUSE
                continue
            logger.error("a child %s before it was ready; the next attempt is in %.1f s", said, pause)
            await asyncio.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)
        self._keepers -= 1

    async def _live_with(self, child: ChildProcess) -> tuple[str, bool]:
        """Serve a child until it ends; returns how it did, and whether it was ready before."""
        self._starting.add(child)
        try:
            child.listen(self._on_frame)
            code = await child.wait()
            self._bury(child, code)
            return say_end(code), child.ready
        finally:
            child.kill()
            if child in self._children:
                self._children.remove(child)
            child.close()

    def _bury(self, child: ChildProcess, code: int) -> None:
        """See to what a dead child had been given."""
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
        for assignment, crash in _examine(child, crashed, code):
            self._listener.on_crash(assignment, crash)
        if child.leaving and not child.retiring:
            self._listener.on_replaced(crashed[-1].function if crashed else child.last)
        if child.leaving and not crashed:
            logger.info("child %d was replaced: %s%s", child.pid, child.leaving, child.say_what_ran())
        elif not crashed:
            logger.warning("child %d %s", child.pid, _cause(child, code)[0])
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


def _examine(child: ChildProcess, crashed: list[Assignment], code: int) -> list[tuple[Assignment, Crash]]:
    """Read on a dead child's board what it was doing.

    The jobs at work are suspects. A process may also die of a job that has ended: of a thread that it left behind, or
    when it is noticed that the job has closed the descriptors. So those are suspects, too, when nothing was at work,
    or when the child was killed for its silence. When it was killed for garbage that it sent, results may have been
    lost in that, so all jobs that it began are suspects. So are those of a message without a word of its end, after
    which it has begun another one: the board does not tell of them any more, and one of them has kept it silent.
    """
    overtaken = [each for each in crashed if not each.beside and each.ticket < crashed[-1].ticket]
    at_work = any(_states(child, each, STARTED) for each in crashed)
    found = [(each, *_involved(child, each, crashed, overtaken, at_work=at_work)) for each in crashed]
    tail = child.output.tail() if child.output is not None else ""
    said, reason = _cause(child, code)
    total = sum(len(suspects) + len(alone) for _, suspects, _, alone in found)
    phase = child.board.phase if child.is_sound else Phase.RUNNING
    return [
        (
            each,
            Crash(
                phase,
                suspects,
                unsent,
                said,
                reason,
                tail,
                others=total > len(suspects) + len(alone),
                durations=_durations(child, each, suspects),
                mixed=not each.quiet,
                alone=alone,
                version=child.board.version if child.is_sound and not child.garbled and each not in overtaken else "",
            ),
        )
        for each, suspects, unsent, alone in found
    ]


def _involved(
    child: ChildProcess,
    each: Assignment,
    crashed: Sequence[Assignment],
    overtaken: Sequence[Assignment],
    *,
    at_work: bool,
) -> tuple[list[int], list[int], list[int]]:
    """Of one of a dead child's assignments: the suspects, what has no result yet, and what of it must run alone.

    `at_work` tells whether it was at any job of any assignment.
    """
    if each in overtaken:
        everything = list(range(each.count))
        return everything, everything, []
    if child.garbled:
        return *_all_begun(child, each, only=len(crashed) == 1), []
    started, ended = _states(child, each, STARTED), _states(child, each, ENDED)
    if (doom := child.doom) is not None:
        suspects = _positions(each, doom.places or ())
    elif child.severed or not at_work:
        suspects = sorted(started + ended)
    else:
        suspects = started
    if overtaken:
        suspects = [position for position in suspects if position in started]
    unsent = sorted(started + ended + _states(child, each, PENDING))
    alone = _positions(each, doom.alone) if doom is not None else []
    return suspects, unsent, [position for position in alone if position in unsent]


def _positions(assignment: Assignment, places: Sequence[int]) -> list[int]:
    """The positions in an assignment of those jobs at some places that are its own."""
    return [at - assignment.first for at in places if 0 <= at - assignment.first < assignment.count]


def _cause(child: ChildProcess, code: int) -> tuple[str, str]:
    """How a child came to its end, in words and as one of the codes."""
    if child.doom is not None:
        return child.doom.said, child.doom.reason
    if child.leaving:
        return f"was replaced, since {child.leaving},", REASON_LEFT
    if child.severed:
        return "closed its connection to the worker and was killed for that", REASON_CRASHED
    if code == -signal.SIGKILL:
        said = "was killed by SIGKILL from outside, perhaps by the kernel for want of memory, or killed itself so"
        return said, REASON_KILLED
    return say_end(code), REASON_LOST if code == LOST else REASON_EXIT if code >= 0 else REASON_CRASHED


def _states(child: ChildProcess, assignment: Assignment, state: int) -> list[int]:
    """The positions of an assignment's jobs in a state."""
    first = assignment.first
    return find_state(child.board.states[first : first + assignment.count], state)


def _durations(child: ChildProcess, assignment: Assignment, positions: list[int]) -> dict[int, float]:
    """Seconds for which jobs of a dead child were at work when it died, where its board tells."""
    if child.garbled or not child.board.timed:
        return {}
    now, begins, states = time.monotonic(), child.board.begins, child.board.states
    places = {position: assignment.first + position for position in positions}
    return {position: now - begins[place] for position, place in places.items() if states[place] == STARTED}


def _all_begun(child: ChildProcess, assignment: Assignment, *, only: bool) -> tuple[list[int], list[int]]:
    """Positions of jobs that a child has begun, and of all, whatever it said about their results.

    Unless this is the `only` message, it may be that the board tells of another one.
    """
    everything = list(range(assignment.count))
    if not only or not child.is_sound:
        return everything, everything
    pending = set(_states(child, assignment, PENDING))
    return [position for position in everything if position not in pending], everything


def _load(child: ChildProcess) -> int:
    return len(child.given) - child.extra
