"""Answers of the store that may be a moment old."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Cache(Generic[T]):
    """What `load` gave for a key, for `seconds` seconds. That there is nothing is not remembered.

    Concurrent gets of a key that is missing may each load it: harmless, and simpler than to share the wait.
    """

    def __init__(self, load: Callable[[str], Awaitable[T | None]], seconds: float, *, size: int = 10_000) -> None:
        self._load = load
        self._seconds = seconds
        self._size = size
        self._entries: dict[str, tuple[float, T]] = {}

    async def get(self, key: str) -> T | None:
        """The value of a key, or None if there is none."""
        entry = self._entries.get(key)
        if entry is not None and time.monotonic() < entry[0]:
            return entry[1]
        return await self.renew(key)

    async def renew(self, key: str) -> T | None:
        """The value of a key as it is now, or None if there is none, however fresh what is known of it."""
        now = time.monotonic()
        value = await self._load(key)
        if value is None:
            self._entries.pop(key, None)
        else:
            if len(self._entries) >= self._size:
                self._entries.clear()
            self._entries[key] = (now + self._seconds, value)
        return value

    def forget(self, key: str) -> None:
        """Load the key anew when it is next asked for."""
        self._entries.pop(key, None)
