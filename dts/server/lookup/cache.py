"""Answers of the store that may be a moment old."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

from cachetools import TTLCache

T = TypeVar("T")


class Cache(Generic[T]):
    """What `load` gave for a key, for `seconds` seconds. That there is nothing is not remembered.

    Concurrent gets of a key that is missing may each load it: harmless, and simpler than to share the wait.
    """

    def __init__(self, load: Callable[[str], Awaitable[T | None]], seconds: float, *, size: int = 10_000) -> None:
        self._load = load
        self._entries: TTLCache[str, T] = TTLCache(size, seconds)

    async def get(self, key: str) -> T | None:
        """The value of a key, or None if there is none."""
        value = self._entries.get(key)
        return await self.renew(key) if value is None else value

    async def renew(self, key: str) -> T | None:
        """The value of a key as it is now, or None if there is none, however fresh what is known of it."""
        value = await self._load(key)
        if value is None:
            self._entries.pop(key, None)
        else:
            self._entries[key] = value
        return value

    def forget(self, key: str) -> None:
        """Load the key anew when it is next asked for."""
        self._entries.pop(key, None)
