"""How far a run is, for whoever shows it."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

_MOST_ERRORS = 1000  # different ones that are counted


@dataclass(slots=True)
class Progress:
    """How far a run is; changes while it goes on. Numbers are of lines unless they say otherwise.

    `lines` is how many were read so far, all of them once `all_read` is set. `resumed` is how many had their row when
    the run was resumed. `errors` says of each error how often it came since, and in which line first. `cancelled` is
    whether the server was told to cancel the run, and said that it did; `ended` is whether it said that there was
    nothing left to cancel. `stopped` is whether it was left open to be resumed.
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
    started: float = field(default_factory=time.monotonic)

    def note_error(self, error: str, line: int) -> None:
        """Count a failure under what it was; of each error the first line is kept, and of the rarer ones nothing."""
        count, first = self.errors.get(error, (0, line))
        if count or len(self.errors) < _MOST_ERRORS:
            self.errors[error] = count + 1, min(first, line)

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
