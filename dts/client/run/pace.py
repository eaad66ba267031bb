"""How much is uploaded at once, and how large blocks are: as much as gets through, as TCP does it.

An upload that was answered soon lets the next ones be larger, and one more be under way; one that took long, or on
which nothing moved any more, halves both. So a line of 64 KiB/s carries a few small blocks at a time, each of which is
stored within seconds, and a fast one is full after a few blocks.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

FIRST_TARGET = 64 * 1024
"""Bytes of arguments at which the first blocks are cut."""

LEAST_TARGET = 8 * 1024
"""Bytes at which blocks are cut on the slowest line: less, and a block's head is a good part of it."""

MOST_TARGET = 1024 * 1024
"""Bytes at which a block is cut at most, before compression: enough to make requests cheap, little to hold."""

_STEP = 64 * 1024  # bytes that a block may have more after each that was soon answered, once some were not
_SOON = 1.0  # seconds
_LATE = 5.0  # seconds


class Pace:
    """Lets up to `most` uploads be under way at a time, and says how large the next block may be (`target`, bytes)."""

    def __init__(self, most: int) -> None:
        self.target = FIRST_TARGET
        self.at_once = most
        self._most = most
        self._under_way = 0
        self._turns: list[asyncio.Future[None]] = []
        self._halved = -1.0
        self._most_target = MOST_TARGET
        self._steep = True

    @asynccontextmanager
    async def turn(self, size: int) -> AsyncIterator[Turn]:
        """Wait for a turn to upload `size` bytes; what came of it is noted on the Turn."""
        while self._under_way >= self.at_once:
            turn = asyncio.get_running_loop().create_future()
            self._turns.append(turn)
            try:
                await turn
            except asyncio.CancelledError:
                self._let_go()  # the turn may have been given to this one just now
                raise
        self._under_way += 1
        try:
            yield Turn(self, size)
        finally:
            self._under_way -= 1
            self._let_go()

    def passed(self, size: int, seconds: float) -> None:
        """An upload was answered after so long."""
        if seconds >= _LATE:
            self.halve(time.monotonic() - seconds)
        elif seconds <= _SOON:
            if 2 * size >= self.target:  # a smaller one says nothing about larger ones
                more = self.target if self._steep else _STEP
                self.target = min(self.target + more, self._most_target)
            self.at_once = min(self.at_once + 1, self._most)

    def limit(self, size: int) -> None:
        """No block of more than `size` bytes gets through, however fast the line is."""
        self._most_target = max(1, min(self._most_target, size))
        self.target = min(self.target, self._most_target)

    def halve(self, began: float) -> None:
        """An upload that began then (monotonic) took too long; those that were under way with it count once."""
        if began < self._halved:
            return
        self._halved = time.monotonic()
        self._steep = False
        self.target = max(self.target // 2, LEAST_TARGET)
        self.at_once = max(self.at_once // 2, 1)

    def _let_go(self) -> None:
        free = self.at_once - self._under_way
        while self._turns and free > 0:
            turn = self._turns.pop(0)
            if not turn.done():
                turn.set_result(None)
                free -= 1


class Turn:
    """One try to upload something."""

    def __init__(self, pace: Pace, size: int) -> None:
        self._pace = pace
        self._size = size
        self._began = time.monotonic()

    def answered(self, seconds: float) -> None:
        """The server has answered, after so many seconds in which this process ran."""
        self._pace.passed(self._size, seconds)

    def stalled(self) -> None:
        """Nothing moved any more, or the connection was lost."""
        self._pace.halve(self._began)
