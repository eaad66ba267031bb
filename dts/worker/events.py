"""What happened to jobs and children of a worker, counted by function."""

from __future__ import annotations

from collections import Counter
from enum import IntEnum


class Events(IntEnum):
    """What can happen to a job in a worker, or to a child."""

    RECV = 1
    """It was received, and not given back or away since."""
    FAIL = 2
    """An attempt at it ran and failed, whether or not another one follows."""
    DONE = 3
    """It ran, and succeeded."""
    REPLACED = 4
    """A child was replaced because of what functions had left in it; counted for the one that ran there last."""


class EventCounter:
    """Counts since the worker started. A job that is delivered twice counts twice."""

    def __init__(self) -> None:
        self._counts: Counter[tuple[str, Events]] = Counter()

    def add(self, function: str, event: Events, jobs: int) -> None:
        """Count `jobs` more of a function."""
        self._counts[function, event] += jobs

    def count(self, function: str, event: Events) -> int:
        """How often an event happened to jobs of a function."""
        return self._counts[function, event]

    def total(self, event: Events) -> int:
        """How often an event happened to any job."""
        return sum(count for (_, which), count in self._counts.items() if which is event)

    @property
    def functions(self) -> list[str]:
        """The functions that something was counted for, by name."""
        return sorted({function for function, _ in self._counts})
