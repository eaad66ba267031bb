"""Messages that were published together, and which of them the broker has answered for."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable

from dts.broker.abc import Message


class Batch:
    """Messages published together. `done` resolves when the broker has answered for each, or the channel ended."""

    __slots__ = ("_failed", "_unwritten", "done", "open", "returned")

    def __init__(self, messages: Iterable[Message]) -> None:
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.open: dict[int, Message] = {}
        self.returned: set[int] = set()
        self._unwritten = deque(messages)
        self._failed: list[Message] = []

    def next(self, tag: int) -> Message | None:
        """Take the next message to be written, under a delivery tag; None if all are."""
        if not self._unwritten:
            return None
        message = self.open[tag] = self._unwritten.popleft()
        return message

    def settle(self, tag: int, *, stored: bool) -> None:
        """The broker has answered for a message."""
        message = self.open.pop(tag)
        if not stored or tag in self.returned:
            self._failed.append(message)
        if not self.open and not self._unwritten:
            self.finish()

    def finish(self) -> None:
        """No more answers will come."""
        if not self.done.done():
            self.done.set_result(None)

    def remaining(self) -> list[Message]:
        """The messages that are not known to be stored."""
        return [*self._failed, *self.open.values(), *self._unwritten]
