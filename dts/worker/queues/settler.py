"""Settles deliveries in the background: those of the same instant in one call."""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import Awaitable, Callable

from dts.broker import Consumer, Delivery
from dts.errors import BrokerError
from dts.runtime.log_throttle import OutageLog
from dts.runtime.service import Service

logger = logging.getLogger(__name__)


class Settler(Service):
    """Acks, releases and rejects in the background.

    A delivery that cannot be settled, because the broker is away, comes to a worker again later. Its results are on
    record by then, and those of the second run are ignored.
    """

    def __init__(self) -> None:
        super().__init__()
        self._acks: defaultdict[Consumer, list[Delivery]] = defaultdict(list)
        self._releases: defaultdict[Consumer, list[Delivery]] = defaultdict(list)
        self._nacks: defaultdict[Consumer, list[Delivery]] = defaultdict(list)
        self._rejects: list[tuple[Consumer, Delivery, str]] = []
        self._settling: set[Consumer] = set()  # consumers with a settlement in flight
        self._ready = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._outage = OutageLog(logger)

    async def _start(self) -> None:
        self._spawn(self._run(), "settler")

    def ack(self, consumer: Consumer, delivery: Delivery) -> None:
        """The work of a delivery is done."""
        self._acks[consumer].append(delivery)
        self._wake()

    def release(self, consumer: Consumer, delivery: Delivery) -> None:
        """Give back a delivery of which nothing was begun; that does not count."""
        self._releases[consumer].append(delivery)
        self._wake()

    def nack(self, consumer: Consumer, delivery: Delivery) -> None:
        """Give back a delivery that could not be handled; the broker counts that."""
        self._nacks[consumer].append(delivery)
        self._wake()

    def reject(self, consumer: Consumer, delivery: Delivery, reason: str) -> None:
        """Send a delivery to the dead letters."""
        self._rejects.append((consumer, delivery, reason))
        self._wake()

    def has_any_of(self, consumer: Consumer) -> bool:
        """Whether a delivery of a consumer is to be settled, or is being settled."""
        rejecting = any(consumer is each for each, _, _ in self._rejects)
        return rejecting or any(consumer in kept for kept in (self._settling, self._acks, self._releases, self._nacks))

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
            acks, releases, nacks = dict(self._acks), dict(self._releases), dict(self._nacks)
            rejects = list(self._rejects)
            self._settling = {*acks, *releases, *nacks, *(consumer for consumer, _, _ in rejects)}
            for kept in (self._acks, self._releases, self._nacks, self._rejects):
                kept.clear()
            for consumer, deliveries in acks.items():
                await self._try(consumer.ack, deliveries)
            for consumer, deliveries in releases.items():
                await self._try(consumer.release, deliveries)
            for consumer, deliveries in nacks.items():
                await self._try(consumer.nack, deliveries)
            for consumer, delivery, reason in rejects:
                await self._try(consumer.reject, [delivery], reason)
            self._settling.clear()
            if not self._ready.is_set():
                self._idle.set()

    async def _try(self, settle: Callable[..., Awaitable[None]], deliveries: list[Delivery], *rest: str) -> None:
        try:
            await settle(deliveries, *rest)
        except BrokerError as error:
            self._outage.failed(
                "%d messages could not be settled, and are handed out again; results of the second run are ignored: %s",
                *(len(deliveries), error.message),
            )
        else:
            self._outage.worked("messages can be settled again")
