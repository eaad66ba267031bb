"""A store as a process has it that dies at a chosen call."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from dts.store import Store


class Died(BaseException):
    """The process of a timekeeper is no more."""


class DyingStore:
    """A store to a process that dies at its n-th call, before or after it had its effect."""

    def __init__(self, store: Store, call: int, *, after: bool) -> None:
        self._store, self._left, self._after = store, call, after

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._store, name)
        return self._dying(method) if asyncio.iscoroutinefunction(method) else method

    def _dying(self, method: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        async def call(*arguments: Any, **named: Any) -> Any:
            self._left -= 1
            if self._left < 0 or (self._left == 0 and not self._after):
                raise Died
            result = await method(*arguments, **named)
            if self._left == 0:
                raise Died
            return result

        return call
