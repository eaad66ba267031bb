"""Memory that the worker shares with one child, so that it can see what a dead child was doing.

A child that was killed cannot say which job it was at, so it writes that down here before it starts one: a byte in
shared memory, 30 ns. The worker reads the board after the child's death only, with one exception: `recall` takes back
work that was handed to the child and that it has not begun. Both sides hold a file lock then, so that an assignment is
either begun or taken back, never both; the lock of a dead process is released by the kernel.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import struct
from collections.abc import Iterable
from enum import IntEnum

MAX_JOBS = 2048
"""Jobs that one message may hold: as many as a block."""

PENDING, STARTED, ENDED, SENT, GIVEN = range(5)
"""States of a job on the board: not begun, at work, ended, its result handed to the worker, given away unbegun."""

_STATES = 64  # offset of the first job's state
_STOPS = _STATES + MAX_JOBS  # offset of the first job's order to stop
_LIMITS = _STOPS + MAX_JOBS  # offset of the first job's time limit
_SIZE = _LIMITS + 8 * MAX_JOBS
_WORD = struct.Struct("=Q")
_TIME = struct.Struct("=d")
_CLAIMED, _RECALLED, _PHASE, _TIMED, _STOPPED, _MEMORY, _LOADING = 0, 8, 16, 17, 24, 32, 40  # offsets


class Phase(IntEnum):
    """What a child is doing with the assignment that it claimed last."""

    IDLE = 0
    DECODING = 1
    LOADING = 2
    RUNNING = 3


class Board:
    """One child's board. Tickets are numbers above 0 that rise with every assignment."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self._memory = mmap.mmap(fd, _SIZE)
        self.states = memoryview(self._memory)[_STATES:_STOPS]
        """One byte a job, by its position in the message. Written by the child."""
        self.limits = memoryview(self._memory)[_LIMITS:].cast("d")
        """By position, the time (monotonic, seconds) at which the process shall be killed if the job is still at
        work; 0 for never. Written by the child, and looked at while `timed` is set."""

    @classmethod
    def create(cls) -> Board:
        """A new board in anonymous memory. Raises OSError when the system has none left."""
        fd = os.memfd_create("dts-worker-board", os.MFD_CLOEXEC)
        os.ftruncate(fd, _SIZE)
        return cls(fd)

    def close(self) -> None:
        """Let go of the memory."""
        self.release()
        self._memory.close()
        os.close(self.fd)

    def release(self) -> None:
        """Make `states` and `limits` unusable."""
        self.states.release()
        self.limits.release()

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
    def memory_limit(self) -> int:
        """Bytes of memory that the child may use for this assignment; 0 for any."""
        return self._get(_MEMORY)

    @memory_limit.setter
    def memory_limit(self, limit: int) -> None:
        _WORD.pack_into(self._memory, _MEMORY, limit)

    def stop(self, ticket: int, positions: Iterable[int] | None) -> None:
        """Worker: order that jobs of an assignment stop, at work or not; None for all of them."""
        if self._get(_STOPPED) != ticket:
            self._memory[_STOPS:_LIMITS] = bytes(MAX_JOBS)
        if positions is None:
            self._memory[_STOPS:_LIMITS] = b"\1" * MAX_JOBS
        else:
            for position in positions:
                self._memory[_STOPS + position] = 1
        _WORD.pack_into(self._memory, _STOPPED, ticket)

    def stopped(self, ticket: int) -> bytes:
        """One byte a job, 1 where it shall stop; empty when none of the assignment shall."""
        return self._memory[_STOPS:_LIMITS] if self._get(_STOPPED) == ticket else b""

    def claim(self, ticket: int) -> bool:
        """Child: begin an assignment; False if the worker has taken it back."""
        fcntl.lockf(self.fd, fcntl.LOCK_EX)
        try:
            if ticket <= self._get(_RECALLED):
                return False
            self._memory[_PHASE] = Phase.DECODING
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

    def positions(self, state: int) -> list[int]:
        """The positions of all jobs in a state."""
        states, wanted, found = bytes(self.states), bytes((state,)), []
        position = states.find(wanted)
        while position >= 0:
            found.append(position)
            position = states.find(wanted, position + 1)
        return found

    def _get(self, offset: int) -> int:
        value: int = _WORD.unpack_from(self._memory, offset)[0]
        return value
