"""Publishes messages: whatever is ready at the same time in one call, again until the broker has confirmed it."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Sequence
from typing import NamedTuple

from dts.broker import Broker, Message
from dts.errors import BrokerUnavailable
from dts.runtime.backoff import Backoff
from dts.runtime.log_throttle import OutageLog
from dts.runtime.service import Service

logger = logging.getLogger(__name__)

MAX_MESSAGES = 256
"""Messages in one call of the broker."""

_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 5.0  # seconds between attempts


class _Post(NamedTuple):
    queue: str
    message: Message
    on_confirmed: Callable[[], None]
    on_refused: Callable[[Exception], None]


class Publisher(Service):
    """Publishes messages in order, and reports for each when it is on stable storage.

    Nobody waits: a child gets its next work while its last results are on their way.
    """

    def __init__(self, broker: Broker) -> None:
        super().__init__()
        self._broker = broker
        self._waiting: deque[_Post] = deque()
        self._ready = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._outage = OutageLog(logger)

    async def _start(self) -> None:
        self._spawn(self._run(), "publisher")

    def put(
        self,
        queue: str,
        message: Message,
        on_confirmed: Callable[[], None],
        on_refused: Callable[[Exception], None],
    ) -> None:
        """Publish a message as soon as possible.

        Then one of the two is called; `on_refused` when no attempt could ever succeed, such as at a message that the
        broker's protocol cannot carry.
        """
        self._waiting.append(_Post(queue, message, on_confirmed, on_refused))
        self._idle.clear()
        self._ready.set()

    async def wait_idle(self) -> None:
        """Wait until everything is confirmed."""
        await self._idle.wait()

    async def _run(self) -> None:
        waiting = self._waiting
        while True:
            await self._ready.wait()
            queue = waiting[0].queue
            posts: list[_Post] = []
            while waiting and len(posts) < MAX_MESSAGES and waiting[0].queue == queue:
                posts.append(waiting.popleft())
            await self._publish(queue, posts)
            if not waiting:
                self._ready.clear()
                self._idle.set()

    async def _publish(self, queue: str, posts: Sequence[_Post]) -> None:
        backoff = Backoff(_FIRST_PAUSE, _LONGEST_PAUSE)
        while True:
            try:
                await self._broker.publish(queue, [post.message for post in posts])
            except BrokerUnavailable as error:
                self._outage.failed(
                    "%d messages to %s wait, and are published when the broker takes them: %s",
                    *(len(posts), queue, error.message),
                )
            except Exception as error:  # noqa: BLE001 - a message may hold what no broker can carry
                return await self._find_refused(queue, posts, error)
            else:
                self._outage.worked("the broker takes messages to %s again", queue)
                for post in posts:
                    post.on_confirmed()
                return
            await backoff.wait()

    async def _find_refused(self, queue: str, posts: Sequence[_Post], error: Exception) -> None:
        """Of messages that could not be published together, publish those that can be by themselves."""
        if len(posts) > 1:
            for post in posts:
                await self._publish(queue, [post])
        else:
            posts[0].on_refused(error)
