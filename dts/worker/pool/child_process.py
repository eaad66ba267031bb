"""The worker's end of one child process: starts it, gives it work, reads its frames, notices its death."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field

from dts.errors import WireError
from dts.worker.link.board import MAX_JOBS, Board
from dts.worker.link.frames import Frame, Kind, pack_header, scope_mark
from dts.worker.link.options import ChildOptions, Descriptors
from dts.worker.link.versions import scope_of
from dts.worker.pool.frame_stream import FrameStream
from dts.worker.pool.output import Output
from dts.worker.pool.pace import Pace
from dts.worker.pool.spawner import LOST, Spawner

_MOST_DIGITS = 4  # of a place on the board
REASON_CRASHED = "crashed"
"""The code of a child that died of a signal, or had to be killed for what a function did to it."""
_MOST_NAMED = 3  # functions that a child has run
_DYING = 0.2
"""Seconds from the end of a child's stream in which its death is noticed, if it has died."""


@dataclass(slots=True, eq=False)
class Assignment:
    """Jobs that a child is handed at once: a message, or after a crash a part of one.

    `owner` belongs to the object that made it. `deaths` counts the children that died of it without being at a job.
    `number` is that of the block's job 0 in its run, if it is known; `given` the time (monotonic) at which a child got
    it. `alone` says that nothing may run concurrently with it.

    `first` and `count` are the places of its jobs on the child's board: all, unless the child has said otherwise,
    as it does for an async function's message, which runs concurrently with others (`beside`). `quiet` says that
    the child was idle when it got it, so that what it printed since is from these jobs. `function` is its name,
    `version` the hash of the deployed version that runs, empty for what is in the functions directory; `yielded`
    has the last values that jobs at work have yielded, by index in the block; `ids` the ids of its jobs, once they
    were needed. `submitted` is the time (monotonic) at which it began to wait for a child, `passed_over` how many
    that came later were begun before it.
    """

    body: bytes
    content_encoding: str
    owner: object
    ticket: int = 0
    deaths: int = 0
    number: int | None = None
    given: float = 0.0
    alone: bool = False
    first: int = 0
    count: int = MAX_JOBS
    beside: bool = False
    quiet: bool = False
    function: str = ""
    yielded: dict[int, bytes] = field(default_factory=dict)
    ids: frozenset[str] | None = None
    passed_over: int = 0
    submitted: float = 0.0
    version: str = ""
    secrets: bytes = field(default=b"", repr=False)

    @property
    def scope(self) -> str:
        """What the child must belong to that runs it: a namespace, or one deployed version."""
        return scope_of(self.function, self.version)


@dataclass(frozen=True, slots=True)
class KillReason:
    """Why the worker has killed a child, and the places of the jobs that are to blame; None if that is not known.

    Jobs at the places in `alone` may be to blame, or may only have run concurrently: each runs again by itself.
    """

    reason: str
    said: str
    places: tuple[int, ...] | None
    alone: tuple[int, ...] = ()


_GARBLED = "wrote to the descriptor of its socket to the worker, which no function may use, and was killed for that"


@dataclass(slots=True)
class Stillness:
    """For how many seconds a child has shown no sign of life, as of when it was `checked` last (monotonic)."""

    seen: tuple[object, ...] = ()
    checked: float = 0.0
    seconds: float = 0.0


class ChildProcess:
    """One child. `given` are the assignments that it has and has not finished, oldest first."""

    def __init__(self, pid: int, end: asyncio.Future[int], sock: socket.socket, board: Board, lifeline: int) -> None:
        self.pid = pid
        """The process id, also of its process group."""
        self.board = board
        self.scope = ""
        """The namespace or version that it belongs to, that of its first message; empty until then."""
        self.given: deque[Assignment] = deque()
        self.ready = False
        self.severed = False
        """Whether it closed its end of the socket while it lived, and was killed for that."""
        self.leaving = ""
        """Why it ends by itself."""
        self.retiring = ""
        """Why it is given nothing more, and ends when it has nothing to do."""
        self.garbled = False
        """Whether it sent or wrote something impossible, so that nothing from it can be trusted."""
        self.kill_reason: KillReason | None = None
        self.stop_by: dict[int, float] = {}
        """Tickets of assignments with jobs that were ordered to stop, and the time (monotonic) by which they must."""
        self.pace = Pace()
        self.ran: Counter[str] = Counter()
        """How many jobs it has run, by function."""
        self.last = ""
        """The function whose message it finished last."""
        self.beside = 0
        """How many of `given` are messages of an async function that it has begun."""
        self.output: Output | None = None
        self._secrets = b""
        self.on_hold = 0
        """How many of its leases are on their way, which it may wait for."""
        self.main_mark: tuple[float, float] | None = None
        """When its helper thread was first seen not to run (monotonic), and the seconds of processor time that its main
        thread had used by then."""
        self.stillness = Stillness()
        self._last = 0  # the ticket of what it was given last
        self._free_since = 0.0  # the time (monotonic) at which it last finished something
        self._end = end
        self._lifeline = lifeline
        self._stream = FrameStream(sock, self._handle, self._on_garbled, self._on_stream_end)
        self._on_frame: Callable[[ChildProcess, Frame], None] = lambda child, frame: None
        self._loop = asyncio.get_running_loop()

    @classmethod
    async def start(cls, options: ChildOptions, spawner: Spawner) -> ChildProcess:
        """Start a child. Raises OSError when the system cannot."""
        with ExitStack() as kept, ExitStack() as lent:
            ours, theirs = socket.socketpair()
            kept.callback(ours.close)
            lent.callback(theirs.close)
            lifeline, life = os.pipe()
            kept.callback(os.close, life)
            lent.callback(os.close, lifeline)
            printed, prints = os.pipe()
            kept.callback(os.close, printed)
            lent.callback(os.close, prints)
            board = Board.create()
            kept.callback(board.close)
            pid, end = await spawner.spawn(options, Descriptors(theirs.fileno(), board.fd, lifeline, prints))
            kept.pop_all()
        ours.setblocking(False)
        child = cls(pid, end, ours, board, life)
        child.output = Output(printed)
        return child

    def listen(self, on_frame: Callable[[ChildProcess, Frame], None]) -> None:
        """Call `on_frame` for every frame from here on."""
        self._on_frame = on_frame
        self._stream.listen()

    def _handle(self, frame: Frame) -> None:
        self._on_frame(self, frame)

    def give(self, assignment: Assignment, ticket: int) -> None:
        """Hand over an assignment under a ticket higher than all before it.

        Raises WireError, or whatever else its content causes, before anything has changed.
        """
        number = 0 if assignment.number is None else assignment.number + 1
        kind = Kind.RUN_ALONE if assignment.alone else Kind.RUN
        mark = scope_mark(assignment.scope)
        header = pack_header(Frame(kind, ticket, assignment.body, assignment.content_encoding, number, mark))
        self.scope = assignment.scope
        assignment.ticket = self._last = ticket
        assignment.first, assignment.count, assignment.beside = 0, MAX_JOBS, False
        assignment.quiet = not self.given
        assignment.yielded.clear()
        assignment.given = time.monotonic()
        if not self.given:
            self.pace.began(assignment.given)
        self.given.append(assignment)
        self._give_secrets(assignment.secrets)
        self._stream.send(header, assignment.body)

    def _give_secrets(self, secrets: bytes) -> None:
        """Hand the secrets for the next assignment over, unless the child has them; its output is masked from now on.

        What it has printed before and is still in the pipe is masked, too: a namespace keeps its child for itself.
        """
        if secrets == self._secrets:
            return
        self._secrets = secrets
        self._stream.send(pack_header(Frame(Kind.SECRETS, 0, secrets)), secrets)
        if self.output is not None:
            self.output.mask(json.loads(secrets).values() if secrets else ())

    def go(self, ticket: int) -> None:
        """Let the child begin with an assignment whose lease is on record."""
        self.on_hold -= 1
        self._stream.send(pack_header(Frame(Kind.GO, ticket)))

    @property
    def at_work(self) -> list[Assignment]:
        """The assignments that the child has begun; the oldest one if its board cannot be trusted."""
        claimed = self.board.claimed
        if claimed > self._last and self.given:
            claimed = self.given[0].ticket
        return [assignment for assignment in self.given if assignment.ticket <= claimed]

    def limit(self, *, ahead: bool) -> int:
        """How many assignments it should have, at most, when those that are quick may have one `ahead`."""
        if self.beside:
            return self.beside + (not self.pace.engaged)
        return 1 + (ahead and self.pace.quick)

    def measure(self, now: float) -> None:
        """Measure its pace at a time (monotonic, seconds)."""
        if self.beside:
            self.pace.measure_concurrent(now, since=None if self.given[-1].beside else self.given[-1].given)
        else:
            self.pace.measure(now, busy=bool(self.given))

    @property
    def extra(self) -> int:
        """How many assignments it works at, besides the first."""
        return max(self.beside - 1, 0)

    @property
    def load(self) -> int:
        """How many assignments it has, concurrent ones counted as one."""
        return len(self.given) - self.extra

    def find(self, ticket: int) -> Assignment:
        """The assignment of a ticket. Raises WireError when the child was given no such one."""
        for assignment in self.given:
            if assignment.ticket == ticket:
                return assignment
        raise WireError(f"the child sent a frame about assignment {ticket}, which it was not given")

    @property
    def served(self) -> bool:
        """Whether it has finished anything before, of which something may be left."""
        return self._free_since > 0

    @property
    def is_sound(self) -> bool:
        """Whether what is on its board can be."""
        return self.board.is_sound(self._last)

    def begun(self, assignment: Assignment, frame: Frame) -> None:
        """Note where on the board the child has put the jobs of an async function's assignment that it has begun.

        Raises:
            WireError: there is no such range of places.
        """
        first = int(frame.body) if frame.body.isdigit() and len(frame.body) <= _MOST_DIGITS else MAX_JOBS
        if assignment.beside or first + frame.jobs > MAX_JOBS:
            raise WireError("the child has begun an assignment at places that are not on its board")
        assignment.first, assignment.count, assignment.beside = first, frame.jobs, True
        self.beside += 1
        self.pace.began(time.monotonic())

    def done(self, assignment: Assignment) -> None:
        """The child has finished an assignment."""
        self.last = assignment.function
        self.given.remove(assignment)
        now = self._free_since = time.monotonic()
        self.pace.ended(now - (assignment.given if assignment.beside else self.pace.since), now)
        self.beside -= assignment.beside
        self.stop_by.pop(assignment.ticket, None)

    def say_what_ran(self) -> str:
        """The functions that it has run most, and which one was the last, as the end of a sentence."""
        most = self.ran.most_common(_MOST_NAMED)
        if not most:
            return ""
        named = ", ".join([f"{function} ({jobs} job{'s' * (jobs != 1)})" for function, jobs in most])
        others = f" and {len(self.ran) - len(most)} other functions" if len(self.ran) > len(most) else ""
        return f"; it ran {named}{others}" + f", last of all {self.last}" * (len(self.ran) > 1)

    def recall(self) -> list[Assignment]:
        """Take back the assignments that the child has not begun, oldest first."""
        if not self.given:
            return []
        claimed = self.board.recall(self.given[-1].ticket)
        if claimed is None:
            return []
        taken = [assignment for assignment in self.given if assignment.ticket > claimed]
        for _ in taken:
            self.given.pop()
        return taken

    async def wait(self) -> int:
        """Wait for the child's end, and return how it ended: its exit status, or minus a signal, or LOST.

        Whatever it sent before its death is read first. What its functions started dies with it.
        """
        code = await asyncio.shield(self._end)
        with suppress(OSError):
            while self._stream.read():
                pass
        return code

    def close(self) -> None:
        """Close what is shared with the child, once it has ended."""
        self._stream.close()
        os.close(self._lifeline)
        self.board.close()
        if self.output is not None:
            self.output.close()

    def finish(self) -> None:
        """Close the way to the child: it ends after what it is doing."""
        with suppress(OSError):
            self._stream.finish()

    def kill(self) -> None:
        """End the child, and what its functions started, at once."""
        if not self._end.done():
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, signal.SIGKILL)
            with suppress(ProcessLookupError, PermissionError):
                os.kill(self.pid, signal.SIGKILL)  # it has no group of its own yet in its first moment

    def kill_for(self, kill_reason: KillReason) -> None:
        """Kill the child for a reason."""
        if self.kill_reason is None and not self._end.done():
            self.kill_reason = kill_reason
            self.kill()

    @property
    def has_ended(self) -> bool:
        """Whether the process is dead."""
        return self._end.done()

    @property
    def signs_of_life(self) -> tuple[object, ...]:
        """What changes while it makes progress."""
        board = self.board
        return board.claimed, board.phase, bytes(board.states), self._stream.received

    def distrust(self, said: str) -> None:
        """Kill a child from which nothing can be trusted, not even which jobs it was at."""
        self.garbled = True
        self.kill_reason = self.kill_reason or KillReason(REASON_CRASHED, said, None)
        self.kill()

    def stop(self, assignment: Assignment, positions: Iterable[int] | None, grace: float) -> None:
        """Order that jobs of an assignment at work stop, None for all; those that do not within `grace` are killed."""
        places = range(assignment.count) if positions is None else positions
        self.board.stop(assignment.ticket, [assignment.first + at for at in places])
        self.stop_by[assignment.ticket] = time.monotonic() + grace

    def dump(self) -> None:
        """Have the child print the stacks of its threads."""
        if not self._end.done():
            with suppress(ProcessLookupError, PermissionError):
                os.kill(self.pid, signal.SIGUSR1)

    def _on_stream_end(self) -> None:
        self._loop.call_later(_DYING, self._sever)

    def _sever(self) -> None:
        """End a child that still lives after its end of the socket was closed: a function did that."""
        self.severed = not self._end.done() and not self.leaving
        self.kill()

    def _on_garbled(self) -> None:
        if not self.garbled:
            self.distrust(_GARBLED)


def say_end(code: int) -> str:
    """How a process ended, in words."""
    if code == LOST:
        return "was lost with the process that it was forked from"
    if code >= 0:
        return f"exited with status {code}"
    try:
        return f"died of {signal.Signals(-code).name}"
    except ValueError:
        return f"died of signal {-code}"
