"""How much of request bodies is held in memory, of all requests together."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass, field


@dataclass(eq=False, slots=True)
class _Waiting:
    user: str
    size: int
    granted: asyncio.Future[None] = field(default_factory=lambda: asyncio.get_running_loop().create_future())


class BodyMemory:
    """Lets bodies in while there is room for them: first come, first served, and no user takes more than half."""

    def __init__(self, total: int) -> None:
        self._free = total
        self._share = total // 2
        self._held: Counter[str] = Counter()
        self._queue: list[_Waiting] = []

    async def reserve(self, user: str, size: int, timeout: float) -> None:
        """Wait for room for a body of a user's.

        Raises:
            TimeoutError: there was none for `timeout` seconds.
        """
        if not self._queue and size <= self._free and self._within_share(user, size):
            self._take(user, size)
            return
        waiting = _Waiting(user, size)
        self._queue.append(waiting)
        self._grant()
        try:
            async with asyncio.timeout(timeout):
                await waiting.granted
        except BaseException:
            if waiting in self._queue:
                self._queue.remove(waiting)
                self._grant()  # those behind it may fit
            else:  # granted in the same moment
                self.release(user, size)
            raise

    def release(self, user: str, size: int) -> None:
        """Give room back."""
        self._free += size
        self._held[user] -= size
        if not self._held[user]:
            del self._held[user]
        self._grant()

    def _grant(self) -> None:
        for waiting in list(self._queue):
            if waiting.granted.cancelled() or not self._within_share(waiting.user, waiting.size):
                continue  # it waits for other bodies of its own user, and is in nobody's way
            if waiting.size > self._free:
                return  # those behind it wait, too: else a large body would never have its turn
            self._queue.remove(waiting)
            self._take(waiting.user, waiting.size)
            waiting.granted.set_result(None)

    def _within_share(self, user: str, size: int) -> bool:
        return not self._held[user] or self._held[user] + size <= self._share

    def _take(self, user: str, size: int) -> None:
        self._free -= size
        self._held[user] += size
