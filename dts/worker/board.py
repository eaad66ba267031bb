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
from enum import IntEnum

MAX_JOBS = 2048
"""Jobs that one message may hold: as many as a block."""

PENDING, STARTED, ENDED, SENT = range(4)
"""States of a job on the board: not begun, at work, ended, and its result handed to the worker."""

_STATES = 64  # offset of the first job's state
_SIZE = _STATES + MAX_JOBS
_WORD = struct.Struct("=Q")
_CLAIMED, _RECALLED, _PHASE = 0, 8, 16  # offsets


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
        self.states = memoryview(self._memory)[_STATES:]
        """One byte a job, by its position in the message. Written by the child."""

    @classmethod
    def create(cls) -> Board:
        """A new board in anonymous memory. Raises OSError when the system has none left."""
        fd = os.memfd_create("dts-worker-board", os.MFD_CLOEXEC)
        os.ftruncate(fd, _SIZE)
        return cls(fd)

    def close(self) -> None:
        """Let go of the memory."""
        self.states.release()
        self._memory.close()
        os.close(self.fd)

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
            _WORD.pack_into(self._memory, _RECALLED, ticket)
            return self._get(_CLAIMED)
        finally:
            fcntl.lockf(self.fd, fcntl.LOCK_UN)

    def positions(self, state: int) -> list[int]:
        """The positions of all jobs in a state."""
        return [position for position, value in enumerate(self.states) if value == state]

    def _get(self, offset: int) -> int:
        value: int = _WORD.unpack_from(self._memory, offset)[0]
        return value
