"""The SQLite side of `Consumer` and `Subscription`."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from functools import partial

from dts.broker.abc import Consumer, Delivery, Event, Subscription
from dts.broker.sqlite.claims import ClaimStore, Settled
from dts.broker.sqlite.queue import Claim, Taken

log = logging.getLogger(__name__)

EVENTS_KEPT = 10_000
"""Events that wait for a slow subscriber; then the oldest are dropped, as they are hints only."""


class SqliteConsumer(Consumer):
    """A consumer that keeps up to `prefetch` messages claimed."""

    def __init__(self, claims: ClaimStore, queue: str, prefetch: int, leave: Callable[[SqliteConsumer], None]) -> None:
        self.queue = queue
        self._claims = claims
        self._prefetch = prefetch
        self._leave = leave
        self._waiting: deque[Delivery] = deque()
        self._arrived = asyncio.Event()
        # What was claimed and not settled, handed out or not, by message id.
        self._held: dict[int, Claim] = {}
        self._claiming: asyncio.Future[list[Taken] | None] | None = None
        self._refill_again = False
        self._cancelled = False
        self._closed = False

    def refill(self) -> None:
        """Claim as much as there is room for, without waiting for it."""
        room = self._prefetch - len(self._held)
        if self._cancelled or room <= 0:
            return
        if self._claiming is not None:
            self._refill_again = True
            return
        self._refill_again = False
        name, self._claiming = self._claims.claim(self.queue, room)
        self._claiming.add_done_callback(partial(self._claimed, name))

    def _claimed(self, name: Callable[[int], Claim], future: asyncio.Future[list[Taken] | None]) -> None:
        self._claiming = None
        if (error := future.exception()) is not None:
            log.debug("cannot take messages of %s now, will try again: %s", self.queue, error)
            return
        for taken in future.result() or ():
            claim = self._held[taken.id] = name(taken.id)
            self._waiting.append(Delivery(taken.message, self.queue, claim, taken.count - 1))
            self._arrived.set()
        if self._refill_again:
            self.refill()

    def keep_only(self, ids: set[int]) -> None:
        """Forget what is not ours any more, since this process stood still for longer than a lease."""
        lost = self._held.keys() - ids
        if lost:
            log.warning("%d message(s) of %s were lost to others: their lease expired", len(lost), self.queue)
            for id in lost:
                del self._held[id]
            self._waiting = deque(delivery for delivery in self._waiting if self._claim(delivery))

    async def receive(self, max_messages: int = 1) -> list[Delivery]:
        while not self._waiting:
            if self._cancelled:
                return []
            self._arrived.clear()
            await self._arrived.wait()
        # From here on nothing is awaited, so that a cancelled receive has taken nothing.
        return [self._waiting.popleft() for _ in range(min(max_messages, len(self._waiting)))]

    async def ack(self, deliveries: Sequence[Delivery]) -> None:
        await self._settle(deliveries, self._claims.ack)

    async def nack(self, deliveries: Sequence[Delivery]) -> None:
        await self._settle(deliveries, self._claims.give_back)

    async def release(self, deliveries: Sequence[Delivery]) -> None:
        await self._settle(deliveries, partial(self._claims.give_back, []))

    async def reject(self, deliveries: Sequence[Delivery], reason: str) -> None:
        await self._settle(deliveries, partial(self._claims.reject, reason=reason))

    async def cancel(self) -> None:
        if self._cancelled:
            return
        self._cancelled = True
        if self._claiming is not None:
            await asyncio.wait((self._claiming,))
        unseen = self._release(self._waiting)
        self._waiting.clear()
        self._arrived.set()
        if unseen:
            await self._claims.give_back([], unseen)

    async def close(self) -> None:
        if self._closed:
            return
        self._cancelled = self._closed = True
        if self._claiming is not None:
            await asyncio.wait((self._claiming,))
        unseen = self._release(self._waiting)
        held = list(self._held.values())
        self._held.clear()
        self._waiting.clear()
        self._arrived.set()
        if held or unseen:
            await self._claims.give_back(held, unseen)
        self._leave(self)

    async def _settle(self, deliveries: Iterable[Delivery], how: Callable[[Sequence[Claim]], Settled]) -> None:
        fresh = self._release(deliveries)
        if fresh:
            settled = how(fresh)
            # Asked for at the same time, so that one transaction does both.
            self.refill()
            await settled

    def _claim(self, delivery: Delivery) -> Claim | None:
        """The delivery's claim, if it is held still."""
        claim = delivery.tag
        return claim if isinstance(claim, Claim) and self._held.get(claim.id) == claim else None

    def _release(self, deliveries: Iterable[Delivery]) -> list[Claim]:
        """Hold deliveries no more; returns the claims of those that were held."""
        fresh = []
        for delivery in deliveries:
            if (claim := self._claim(delivery)) is not None:
                del self._held[claim.id]
                fresh.append(claim)
        return fresh


class SqliteSubscription(Subscription):
    """A subscription to events of this process and of others."""

    def __init__(self, topics: Iterable[str], leave: Callable[[SqliteSubscription], None]) -> None:
        self._topics = frozenset(topics)
        self._leave = leave
        self._events: deque[Event] = deque(maxlen=EVENTS_KEPT)
        self._arrived = asyncio.Event()
        self._closed = False
        self.missed = asyncio.Event()

    def take(self, topic: str, payload: str) -> None:
        """An event was broadcast."""
        if topic in self._topics:
            if len(self._events) == self._events.maxlen:
                self.missed.set()
            self._events.append(Event(topic, payload))
            self._arrived.set()

    async def listening(self) -> None:
        """At once: there is no service that could be away."""

    async def get(self) -> Event | None:
        while not self._events:
            if self._closed:
                return None
            self._arrived.clear()
            await self._arrived.wait()
        return self._events.popleft()

    async def close(self) -> None:
        self._closed = True
        self._events.clear()
        self._arrived.set()
        self._leave(self)
