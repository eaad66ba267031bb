"""Memory that the worker shares with one child, so that it can see what a dead child was doing.

A child that was killed cannot say which job it was at, so it writes that down here before it starts one: a byte in
shared memory, 30 ns. The worker reads the board after the child's death only, with one exception: `recall` takes back
work that was handed to the child and that it has not begun. Both sides hold a file lock then, so that an assignment is
either begun or taken back, never both; the lock of a dead process is released by the kernel.

Functions run in a process that holds this memory. What one of them writes to all descriptors that it finds does not
reach it, since the child seals it against that; and what it says is checked, in case one gets there all the same.

Every job has a place on the board. The jobs of a message that runs alone have the first ones; messages of an async
function that run concurrently have one range of places each.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import struct
from collections.abc import Iterable
from contextlib import suppress
from enum import IntEnum
from typing import Any

MAX_JOBS = 2048
"""Jobs that one message may hold: as many as a block."""

PENDING, STARTED, ENDED, SENT, GIVEN = range(5)
"""States of a job on the board: not begun, at work, ended, its result handed to the worker, given away unbegun."""

_STATES = 80  # offset of the first job's state
_LIMITS = _STATES + MAX_JOBS  # offset of the first job's time limit
_STOPS = _LIMITS + 8 * MAX_JOBS  # offset of the first job's order to stop
_BEGINS = _STOPS + 8 * MAX_JOBS  # offset of the time at which the first job began
_SIZE = _BEGINS + 8 * MAX_JOBS
_WORD = struct.Struct("=Q")
_TIME = struct.Struct("=d")
_CLAIMED, _RECALLED, _PHASE, _TIMED, _STOPPED, _MEMORY, _LOADING, _BEAT, _BLOCKER = 0, 8, 16, 17, 24, 32, 40, 48, 56
# offsets
_VERSION, _VERSION_SIZE = 64, 16
UNKNOWN = -1
"""In place of a place: something blocks the event loop, and it is none of the jobs at work."""


class Phase(IntEnum):
    """What a child is doing with the assignment that it claimed last."""

    IDLE = 0
    DECODING = 1
    LOADING = 2
    RUNNING = 3


_PHASES = frozenset(Phase)
_SEAL_FUTURE_WRITE = 0x10  # F_SEAL_FUTURE_WRITE, which the module fcntl lacks


class Board:
    """One child's board. Tickets are numbers above 0 that rise with every assignment."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self._memory = mmap.mmap(fd, _SIZE)
        self.states = memoryview(self._memory)[_STATES:_LIMITS]
        """One byte a job, by its place. Written by the child."""
        self.limits = memoryview(self._memory)[_LIMITS:_STOPS].cast("d")
        """By place, the time (monotonic, seconds) at which the process shall be killed if the job is still at work; 0
        for never. Written by the child, and looked at while `timed` is set."""
        self.begins = memoryview(self._memory)[_BEGINS:].cast("d")
        """By place, the time (monotonic, seconds) at which the job began. Written by the child while `timed` is set."""
        self._stops = memoryview(self._memory)[_STOPS:_BEGINS].cast(
            "Q"
        )  # by place, the ticket whose job there shall stop
        self._views: list[memoryview[Any]] = []

    @classmethod
    def create(cls) -> Board:
        """A new board in anonymous memory. Raises OSError when the system has none left."""
        fd = os.memfd_create("dts-worker-board", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.ftruncate(fd, _SIZE)
        return cls(fd)

    def seal(self) -> None:
        """Child: forbid new writable mappings, and any change of its size (fcntl(2))."""
        with suppress(OSError):  # before Linux 5.1
            fcntl.fcntl(self.fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | _SEAL_FUTURE_WRITE)

    def is_sound(self, last: int) -> bool:
        """Worker: whether what it says can be, when `last` is the highest ticket that the child was given."""
        return self.claimed <= last and self._memory[_PHASE] in _PHASES

    def close(self) -> None:
        """Let go of the memory."""
        self.release()
        self._memory.close()
        os.close(self.fd)

    def release(self) -> None:
        """Make `states` and `limits` unusable, and the views of them."""
        self._views += self.states, self.limits, self.begins, self._stops
        for view in self._views:
            view.release()
        self._views.clear()

    def view(self, first: int, count: int) -> tuple[memoryview[int], memoryview[float], memoryview[float]]:
        """Child: states, limits and begins of a range of places, cleared, for jobs of a concurrent message."""
        states, limits = self.states[first : first + count], self.limits[first : first + count]
        begins = self.begins[first : first + count]
        states[:] = bytes(count)
        limits[:] = memoryview(bytes(8 * count)).cast("d")
        self._views += states, limits, begins
        return states, limits, begins

    def forget(self, *views: memoryview[Any]) -> None:
        """Child: views that are used no longer."""
        self._views = [view for view in self._views if not any(view is other for other in views)]

    @property
    def claimed(self) -> int:
        """The ticket of the assignment that the child began last; 0 for none."""
        return self._get(_CLAIMED)

    @property
    def phase(self) -> Phase:
        """What the child is doing with it."""
        return Phase(self._memory[_PHASE])

    @phase.setter
    def phase(self, phase: Phase) -> None:
        self._memory[_PHASE] = phase

    @property
    def version(self) -> str:
        """The version of the function that the assignment runs, 16 characters of it; empty until it is loaded."""
        text = self._memory[_VERSION : _VERSION + _VERSION_SIZE]
        return text.partition(b"\0")[0].decode("ascii", errors="replace")

    @version.setter
    def version(self, version: str) -> None:
        self._memory[_VERSION : _VERSION + _VERSION_SIZE] = version.encode()[:_VERSION_SIZE].ljust(_VERSION_SIZE, b"\0")

    @property
    def timed(self) -> bool:
        """Whether jobs of this assignment have time limits."""
        return bool(self._memory[_TIMED])

    @timed.setter
    def timed(self, timed: bool) -> None:
        self._memory[_TIMED] = timed

    @property
    def loading_limit(self) -> float:
        """The time (monotonic, seconds) by which the function's module must be imported; 0 for none."""
        value: float = _TIME.unpack_from(self._memory, _LOADING)[0]
        return value

    @loading_limit.setter
    def loading_limit(self, limit: float) -> None:
        _TIME.pack_into(self._memory, _LOADING, limit)

    @property
    def beat(self) -> float:
        """The time (monotonic, seconds) at which the helper thread ran last: it cannot while a thread holds the
        interpreter's lock."""
        value: float = _TIME.unpack_from(self._memory, _BEAT)[0]
        return value

    @beat.setter
    def beat(self, now: float) -> None:
        _TIME.pack_into(self._memory, _BEAT, now)

    @property
    def blocker(self) -> int | None:
        """The place of the job that has blocked the event loop for a while, or UNKNOWN; None if it is not blocked."""
        word = self._get(_BLOCKER)
        if not word:
            return None
        return word - 2 if 2 <= word < MAX_JOBS + 2 else UNKNOWN

    @blocker.setter
    def blocker(self, place: int | None) -> None:
        _WORD.pack_into(self._memory, _BLOCKER, 0 if place is None else place + 2)

    @property
    def memory_limit(self) -> int:
        """Bytes of memory that the child may use for this assignment; 0 for any."""
        return self._get(_MEMORY)

    @memory_limit.setter
    def memory_limit(self, limit: int) -> None:
        _WORD.pack_into(self._memory, _MEMORY, limit)

    def stop(self, ticket: int, places: Iterable[int]) -> None:
        """Worker: order that jobs of an assignment stop, at work or not."""
        for place in places:
            self._stops[place] = ticket
        _WORD.pack_into(self._memory, _STOPPED, max(ticket, self._get(_STOPPED)))

    def stopped(self, ticket: int, first: int, count: int) -> list[int]:
        """Which jobs of an assignment shall stop, counted from its first place."""
        if self._get(_STOPPED) < ticket:  # tickets rise, so nothing was ordered for it yet
            return []
        return [at for at, ordered in enumerate(self._stops[first : first + count]) if ordered == ticket]

    def is_recalled(self, ticket: int) -> bool:
        """Child: whether an assignment that it has not begun was taken back."""
        return ticket <= self._get(_RECALLED)

    def claim(self, ticket: int, *, beside: bool = False) -> bool:
        """Child: begin an assignment, alone or `beside` others; False if the worker has taken it back."""
        fcntl.lockf(self.fd, fcntl.LOCK_EX)
        try:
            if ticket <= self._get(_RECALLED):
                return False
            if not beside:
                self._memory[_PHASE] = Phase.DECODING
                self._memory[_VERSION] = 0
                self.blocker = None
                self.states[:] = bytes(MAX_JOBS)
            _WORD.pack_into(self._memory, _CLAIMED, ticket)
            return True
        finally:
            fcntl.lockf(self.fd, fcntl.LOCK_UN)

    def recall(self, ticket: int) -> int | None:
        """Worker: take back what the child has not begun, up to `ticket`.

        Returns the ticket that the child began last: all later ones are taken back. None when the child is choosing
        at this instant; nothing is taken back then.
        """
        try:
            fcntl.lockf(self.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return None
        try:
            _WORD.pack_into(self._memory, _RECALLED, max(ticket, self._get(_RECALLED)))
            return self._get(_CLAIMED)
        finally:
            fcntl.lockf(self.fd, fcntl.LOCK_UN)

    def places(self, state: int) -> list[int]:
        """The places of all jobs in a state. What is behind the places of what is at work means nothing."""
        return find_state(self.states, state)

    def _get(self, offset: int) -> int:
        value: int = _WORD.unpack_from(self._memory, offset)[0]
        return value


def find_state(states: memoryview[int], state: int) -> list[int]:
    """Where a state is, from the first one on."""
    copy, wanted, found = bytes(states), bytes((state,)), []
    at = copy.find(wanted)
    while at >= 0:
        found.append(at)
        at = copy.find(wanted, at + 1)
    return found
