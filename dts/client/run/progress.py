"""How far a run is, for whoever shows it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from heapq import nlargest
from typing import Protocol

_MOST_ERRORS = 1000  # different ones that are counted
_MOST_SLOW = 5  # lines that are named as the slowest


class Recorder(Protocol):
    """Takes what results say of time, as they come."""

    def record(self, durations: Sequence[float], failed: int) -> None:
        """Jobs that succeeded took so many seconds each; so many others failed."""


@dataclass(slots=True)
class Progress:
    """How far a run is; changes while it goes on. Numbers are of lines unless they say otherwise.

    `lines` is how many were read so far, all of them once `all_read` is set. `resumed` is how many had their row when
    the run was resumed. `errors` says of each error how often it came since, and in which line first; `slowest` has the
    seconds and the line of those that took longest. `cancelled` is whether the server was told to cancel the run, and
    said that it did; `ended` is whether it said that there was nothing left to cancel. `stopped` is whether it was left
    open to be resumed.

    `counts` is how many jobs are in each state, and `waiting` what they wait for, as the server said last. `arrived` is
    when results came last (monotonic).
    """

    run: str = ""
    lines: int = 0
    succeeded: int = 0
    failed: int = 0
    resumed: int = 0
    all_read: bool = False
    cancelled: bool = False
    ended: bool = False
    stopped: bool = False
    errors: dict[str, tuple[int, int]] = field(default_factory=dict)
    slowest: list[tuple[float, int]] = field(default_factory=list)
    counts: Mapping[str, int] = field(default_factory=dict)
    waiting: str = ""
    recorder: Recorder | None = None
    started: float = field(default_factory=time.monotonic)
    arrived: float = field(default_factory=time.monotonic)

    def note_error(self, error: str, line: int) -> None:
        """Count a failure under what it was; of each error the first line is kept, and of the rarer ones nothing."""
        count, first = self.errors.get(error, (0, line))
        if count or len(self.errors) < _MOST_ERRORS:
            self.errors[error] = count + 1, min(first, line)

    def note_durations(self, durations: Sequence[float], lines: Callable[[], Iterable[int]]) -> None:
        """Note how many seconds the jobs of some lines took; `lines` gives their numbers, which are rarely needed."""
        enough = len(self.slowest) == _MOST_SLOW
        if not durations or (enough and max(durations) <= self.slowest[-1][0]):  # nearly always, and costs little
            return
        self.slowest = nlargest(_MOST_SLOW, [*self.slowest, *zip(durations, lines(), strict=True)])

    @property
    def done(self) -> int:
        """Lines that have their result."""
        return self.succeeded + self.failed

    @property
    def seconds(self) -> float:
        """How long the run has taken so far."""
        return time.monotonic() - self.started

    @property
    def rate(self) -> float:
        """Lines a second since it began, or was resumed."""
        return (self.done - self.resumed) / max(self.seconds, 0.001)

    @property
    def running(self) -> int:
        """Lines that were at work when the server was asked last."""
        return self.counts.get("running", 0)

    @property
    def queued(self) -> int:
        """Lines that waited when the server was asked last."""
        return sum(self.counts.get(state, 0) for state in ("accepted", "queued", "delayed"))
