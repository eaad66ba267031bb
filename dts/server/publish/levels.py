"""Whose turn it is, by priority: the highest goes first, and lower ones are not left out for ever.

The jobs of each priority have a tree of shares of their own. What goes out for a higher priority, a lower one that
waits is owed a part of; once it had no turn for AGE seconds, it gets what it is owed. So urgent jobs overtake at once,
and any other has at least OWED of the work of those above it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from dts.server.publish.fair import FairShare, Path

AGE = 30.0
"""Seconds without a turn after which what waits with a lower priority is served all the same."""

OWED = 1 / 32
"""The part of the work given to higher priorities that is owed to each lower one."""


class Turn(NamedTuple):
    """A leaf whose turn it may be, and its priority."""

    priority: int
    path: Path


@dataclass(slots=True)
class _Level:
    """`served` is when it had a turn last, or has begun to wait, in seconds of the caller's clock."""

    served: float
    share: FairShare = field(default_factory=FairShare)
    owed: float = 0.0
    paying: bool = False


class Levels:
    """The leaves that have something to do. Times are of any clock that only goes forward."""

    def __init__(self) -> None:
        self._levels: dict[int, _Level] = {}

    def __bool__(self) -> bool:
        return any(level.share for level in self._levels.values())

    def add(self, turn: Turn, weights: tuple[float, ...], now: float) -> None:
        """Let a leaf take part, with weights along its path; one that does already takes on the weights."""
        level = self._levels.setdefault(turn.priority, _Level(now))
        if not level.share:
            level.served, level.owed, level.paying = now, 0.0, False
        level.share.add(turn.path, weights)

    def remove(self, turn: Turn) -> None:
        """Take a leaf out."""
        self._levels[turn.priority].share.remove(turn.path)

    def first(self, now: float) -> Turn | None:
        """The leaf whose turn it is, or None if there is none."""
        busy = sorted(priority for priority, level in self._levels.items() if level.share)
        if not busy:
            return None
        aged = (each for each in busy[:-1] if self._is_due(self._levels[each], now))
        priority = min(aged, key=lambda each: self._levels[each].served, default=busy[-1])
        return Turn(priority, self._levels[priority].share.first())

    def charge(self, turn: Turn, work: float, now: float) -> None:
        """Count work that a leaf was given, in any unit."""
        for priority, other in self._levels.items():
            if priority < turn.priority and other.share:
                other.owed += work * OWED
        level = self._levels[turn.priority]
        level.owed = max(0.0, level.owed - work)
        level.paying = level.paying and level.owed > 0
        level.served = now
        level.share.charge(turn.path, work)

    def _is_due(self, level: _Level, now: float) -> bool:
        level.paying = level.owed > 0 and (level.paying or now - level.served >= AGE)
        return level.paying
