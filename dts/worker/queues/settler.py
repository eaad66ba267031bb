"""Settles deliveries: those of the same instant in one call, and never in the way of the next work."""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import Awaitable, Callable

from dts.broker import Consumer, Delivery
from dts.errors import BrokerError
from dts.runtime.service import Service

logger = logging.getLogger(__name__)


class Settler(Service):
    """Acks, releases and rejects in the background.

    A delivery that cannot be settled since the broker is away comes back to a worker later; its results are known by
    then, and those of the second time are passed over.
    """

    def __init__(self) -> None:
        super().__init__()
        self._acks: defaultdict[Consumer, list[Delivery]] = defaultdict(list)
        self._releases: defaultdict[Consumer, list[Delivery]] = defaultdict(list)
        self._rejects: list[tuple[Consumer, Delivery, str]] = []
        self._at: set[Consumer] = set()  # those of which something is being settled
        self._ready = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()

    async def _start(self) -> None:
        self._spawn(self._run(), "settler")

    def ack(self, consumer: Consumer, delivery: Delivery) -> None:
        """The work of a delivery is done."""
        self._acks[consumer].append(delivery)
        self._wake()

    def release(self, consumer: Consumer, delivery: Delivery) -> None:
        """Somebody else shall do the work of a delivery, of which nothing was begun."""
        self._releases[consumer].append(delivery)
        self._wake()

    def reject(self, consumer: Consumer, delivery: Delivery, reason: str) -> None:
        """Nobody can do the work of a delivery."""
        self._rejects.append((consumer, delivery, reason))
        self._wake()

    def is_at(self, consumer: Consumer) -> bool:
        """Whether a delivery of a consumer is to be settled, or is being so."""
        rejecting = any(consumer is each for each, _, _ in self._rejects)
        return rejecting or any(consumer in kept for kept in (self._at, self._acks, self._releases))

    async def wait_idle(self) -> None:
        """Wait until everything is settled."""
        await self._idle.wait()

    def _wake(self) -> None:
        self._idle.clear()
        self._ready.set()

    async def _run(self) -> None:
        while True:
            await self._ready.wait()
            self._ready.clear()
            acks, releases, rejects = dict(self._acks), dict(self._releases), list(self._rejects)
            self._at = {*acks, *releases, *(consumer for consumer, _, _ in rejects)}
            for kept in (self._acks, self._releases, self._rejects):
                kept.clear()
            for consumer, deliveries in acks.items():
                await _try(consumer.ack, deliveries)
            for consumer, deliveries in releases.items():
                await _try(consumer.release, deliveries)
            for consumer, delivery, reason in rejects:
                await _try(consumer.reject, [delivery], reason)
            self._at.clear()
            if not self._ready.is_set():
                self._idle.set()


async def _try(settle: Callable[..., Awaitable[None]], deliveries: list[Delivery], *rest: str) -> None:
    try:
        await settle(deliveries, *rest)
    except BrokerError as error:
        logger.warning("%d messages could not be settled: %s", len(deliveries), error.message)
