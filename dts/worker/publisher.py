"""Publishes results: whatever is ready at the same time in one call, again until the broker has confirmed it."""

from __future__ import annotations

import asyncio
import logging
import random
from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

from dts.broker import Broker, Message
from dts.errors import BrokerUnavailable
from dts.runtime.service import Service

logger = logging.getLogger(__name__)

MAX_MESSAGES = 256
"""Messages in one call of the broker."""

_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 5.0  # seconds between attempts

T = TypeVar("T")


class Publisher(Service, Generic[T]):
    """Publishes messages to one queue, and calls `on_confirmed` with the owner of each that is on stable storage.

    Owners never wait: a child gets its next work while its last results are on their way.
    """

    def __init__(self, broker: Broker, queue: str, on_confirmed: Callable[[T], None]) -> None:
        super().__init__()
        self._broker = broker
        self._queue = queue
        self._on_confirmed = on_confirmed
        self._waiting: deque[tuple[Message, T]] = deque()
        self._ready = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()

    async def _start(self) -> None:
        self._spawn(self._run(), f"publisher of {self._queue}")

    def put(self, message: Message, owner: T) -> None:
        """Publish a message as soon as can be."""
        self._waiting.append((message, owner))
        self._idle.clear()
        self._ready.set()

    async def wait_idle(self) -> None:
        """Wait until everything is confirmed."""
        await self._idle.wait()

    async def _run(self) -> None:
        while True:
            await self._ready.wait()
            count = min(len(self._waiting), MAX_MESSAGES)
            batch = [self._waiting.popleft() for _ in range(count)]
            await self._publish([message for message, _ in batch])
            for _, owner in batch:
                self._on_confirmed(owner)
            if not self._waiting:
                self._ready.clear()
                self._idle.set()

    async def _publish(self, messages: list[Message]) -> None:
        pause = _FIRST_PAUSE
        while True:
            try:
                return await self._broker.publish(self._queue, messages)
            except BrokerUnavailable as error:
                logger.warning("%d messages of results wait: %s", len(messages), error.message)
            await asyncio.sleep(pause * random.uniform(0.5, 1.0))
            pause = min(2 * pause, _LONGEST_PAUSE)
