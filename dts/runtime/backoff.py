"""Pauses between attempts at what fails for a while."""

from __future__ import annotations

import asyncio
import random


class Backoff:
    """Doubles the pause after each attempt that failed, from `first` up to `most` seconds, with jitter.

    Each pause is drawn from the upper half of its bound, so that the clients of a service that comes back do not all
    try at the same instant.
    """

    def __init__(self, first: float, most: float) -> None:
        self.first, self.most = first, most
        self._bound = first

    def reset(self) -> None:
        """An attempt went well: the next pause is a short one again."""
        self._bound = self.first

    def next_pause(self) -> float:
        """Seconds to wait before the next attempt."""
        bound, self._bound = self._bound, min(2 * self._bound, self.most)
        return bound * random.uniform(0.5, 1.0)

    async def wait(self) -> None:
        """Wait before the next attempt."""
        await asyncio.sleep(self.next_pause())
