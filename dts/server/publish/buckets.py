"""Token buckets: how many jobs may begin now of those that may begin at a rate."""

from __future__ import annotations

import time
from dataclasses import dataclass, field


@dataclass(slots=True)
class TokenBucket:
    """Fills at `rate` tokens a second up to a second's worth, one at least; begins with one. Times are monotonic."""

    rate: float
    tokens: float = 1.0
    filled: float = field(default_factory=time.monotonic)

    def available(self, now: float) -> int:
        """How many whole tokens there are."""
        most = max(1.0, self.rate)
        self.tokens = min(most, self.tokens + max(0.0, now - self.filled) * self.rate)
        self.filled = now
        return int(self.tokens + 1e-9)  # what a sum of fractions falls short of

    def take(self, count: int) -> None:
        """Use tokens up that are available."""
        self.tokens -= count

    @property
    def wait(self) -> float:
        """Seconds until there is a token, from when it was last filled."""
        return max(0.0, (1.0 - self.tokens) / self.rate)
