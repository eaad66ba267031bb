"""A broker for most queues, and others for the jobs of some routes: a site far away that has one of its own.

A route's broker that is away keeps nobody else waiting: after one publish that failed, others fail at once for a while.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack

from dts.broker.abc import (
    DEFAULT_PUBLISH_TIMEOUT,
    Broker,
    Consumer,
    Message,
    QueueDepth,
    Subscription,
)
from dts.errors import BrokerUnavailable, RouteUnavailable

_PATIENCE = 3.0
"""Seconds that a publish to a route's broker may take: publishes to other queues may wait behind it."""

_PAUSE = 5.0
"""Seconds for which nothing more is tried with a route's broker that did not answer."""


class RoutedBroker(Broker):
    """`main`, but for the queues in `others`, each of which is with a broker that is this object's to start and close.

    Events and everything that is not about one queue are the main broker's.
    """

    def __init__(self, main: Broker, others: Mapping[str, Broker]) -> None:
        self._main = main
        self._others = dict(others)
        self._away: dict[Broker, float] = {}
        self._stack = AsyncExitStack()

    @property
    def kind(self) -> str:
        return self._main.kind

    @property
    def parts(self) -> tuple[Broker, ...]:
        return (self._main, *dict.fromkeys(self._others.values()))

    async def start(self) -> None:
        for broker in self.parts:
            self._stack.push_async_callback(broker.close)
            await broker.start()

    async def close(self) -> None:
        await self._stack.aclose()

    async def ping(self) -> None:
        await self._main.ping()

    async def declare(self, queues: Sequence[str]) -> None:
        groups: defaultdict[Broker, list[str]] = defaultdict(list)
        for queue in queues:
            groups[self._of(queue)].append(queue)
        for broker, group in groups.items():
            await broker.declare(group)

    async def publish(
        self, queue: str, messages: Sequence[Message], *, timeout: float = DEFAULT_PUBLISH_TIMEOUT
    ) -> None:
        broker = self._of(queue)
        if broker is self._main:
            await broker.publish(queue, messages, timeout=timeout)
            return
        now = asyncio.get_running_loop().time
        if now() < self._away.get(broker, 0.0):
            raise RouteUnavailable(f"the broker of {queue} did not answer a moment ago")
        try:
            await broker.publish(queue, messages, timeout=min(timeout, _PATIENCE))
        except BrokerUnavailable as error:
            self._away[broker] = now() + _PAUSE
            raise RouteUnavailable(f"the broker of {queue}: {error}") from error

    async def consume(self, queue: str, *, prefetch: int) -> Consumer:
        return await self._of(queue).consume(queue, prefetch=prefetch)

    async def depth(self, queue: str) -> QueueDepth:
        return await self._of(queue).depth(queue)

    async def check(self, queue: str) -> str:
        return await self._of(queue).check(queue)

    async def may_read(self, queue: str) -> bool:
        return await self._of(queue).may_read(queue)

    async def claim_for(self, installation: bytes) -> None:
        for broker in self.parts:
            await broker.claim_for(installation)

    async def broadcast(self, topic: str, payload: str) -> bool:
        return await self._main.broadcast(topic, payload)

    async def subscribe(self, topics: Sequence[str]) -> Subscription:
        return await self._main.subscribe(topics)

    def _of(self, queue: str) -> Broker:
        return self._others.get(queue, self._main)
