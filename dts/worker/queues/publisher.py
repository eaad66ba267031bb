"""Publishes messages: whatever is ready at the same time in one call, again until the broker has confirmed it."""

from __future__ import annotations

import asyncio
import logging
import random
from collections import deque
from collections.abc import Callable

from dts.broker import Broker, Message
from dts.errors import BrokerUnavailable
from dts.runtime.service import Service

logger = logging.getLogger(__name__)

MAX_MESSAGES = 256
"""Messages in one call of the broker."""

_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 5.0  # seconds between attempts


class Publisher(Service):
    """Publishes messages in order, and calls what was given with each when that is on stable storage.

    Nobody waits: a child gets its next work while its last results are on their way.
    """

    def __init__(self, broker: Broker) -> None:
        super().__init__()
        self._broker = broker
        self._waiting: deque[tuple[str, Message, Callable[[], None]]] = deque()
        self._ready = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()

    async def _start(self) -> None:
        self._spawn(self._run(), "publisher")

    def put(self, queue: str, message: Message, on_confirmed: Callable[[], None]) -> None:
        """Publish a message as soon as can be."""
        self._waiting.append((queue, message, on_confirmed))
        self._idle.clear()
        self._ready.set()

    async def wait_idle(self) -> None:
        """Wait until everything is confirmed."""
        await self._idle.wait()

    async def _run(self) -> None:
        waiting = self._waiting
        while True:
            await self._ready.wait()
            queue = waiting[0][0]
            messages: list[Message] = []
            confirmed: list[Callable[[], None]] = []
            while waiting and len(messages) < MAX_MESSAGES and waiting[0][0] == queue:
                _, message, on_confirmed = waiting.popleft()
                messages.append(message)
                confirmed.append(on_confirmed)
            await self._publish(queue, messages)
            for on_confirmed in confirmed:
                on_confirmed()
            if not waiting:
                self._ready.clear()
                self._idle.set()

    async def _publish(self, queue: str, messages: list[Message]) -> None:
        pause = _FIRST_PAUSE
        while True:
            try:
                return await self._broker.publish(queue, messages)
            except BrokerUnavailable as error:
                logger.warning("%d messages to %s wait: %s", len(messages), queue, error.message)
            await asyncio.sleep(pause * random.uniform(0.5, 1.0))
            pause = min(2 * pause, _LONGEST_PAUSE)
