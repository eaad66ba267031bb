"""Rows in the order of the input: those that come early wait for the ones before them."""

from __future__ import annotations

from collections.abc import Iterable

from dts.client.run.ledger_state import Held

MAX_HELD_BYTES = 24 * 1024 * 1024
MAX_HELD_ROWS = 100_000


class RowOrder:
    """Gives rows back in the order of their lines, from `next_line` on; `held` are rows that wait already."""

    def __init__(self, next_line: int = 1, held: Iterable[Held] = ()) -> None:
        self.next_line = next_line
        self._held = {row[0]: row for row in held}
        self._size = sum(len(row[2]) for row in self._held.values())
        self._fresh: list[int] = []

    @property
    def full(self) -> bool:
        """Whether so much waits that nothing more should be sent but what it waits for."""
        return len(self._held) >= MAX_HELD_ROWS or self._size >= MAX_HELD_BYTES

    def add(self, rows: Iterable[Held]) -> list[Held]:
        """Take rows in; returns those whose turn it is now, in order."""
        held = self._held
        for row in rows:
            held[row[0]] = row
            self._fresh.append(row[0])
            self._size += len(row[2])
        ready: list[Held] = []
        while (row_now := held.pop(self.next_line, None)) is not None:
            ready.append(row_now)
            self._size -= len(row_now[2])
            self.next_line += 1
        return ready

    def take_fresh(self) -> list[Held]:
        """Rows that wait and did not when this was last asked for."""
        fresh, self._fresh = self._fresh, []
        return [self._held[line] for line in fresh if line in self._held]
