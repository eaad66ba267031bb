"""The SQLite side of `Consumer` and `Subscription`."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from itertools import count
from typing import Any

from dts.broker.abc import Consumer, Delivery, Event, Subscription
from dts.broker.sqlite import queue as queue_table
from dts.broker.sqlite.queue import Claim, Taken
from dts.broker.sqlite.writer import Woken, Writer

log = logging.getLogger(__name__)

SETTLE_RETRY = 1.0
"""Seconds until settling is tried again after the file could not be written."""

EVENTS_KEPT = 10_000
"""Events that wait for a slow subscriber; then the oldest are dropped, as they are hints only."""

Run = Callable[[sqlite3.Connection, Woken], Any]
Settled = asyncio.Future[None]


class Clerk:
    """Claims and settles messages for the consumers of a process. Leases and limits are in seconds and hand-overs."""

    def __init__(self, writer: Writer, owner: str, *, lease: float, delivery_limit: int) -> None:
        self._writer = writer
        self._owner = owner
        self._lease = lease
        self._limit = delivery_limit
        self._numbers = count(1)
        self._closed = False

    def close(self) -> None:
        """Try no more to settle what could not be settled."""
        self._closed = True

    def claim(self, queue: str, most: int) -> tuple[Callable[[int], Claim], asyncio.Future[list[Taken] | None]]:
        """Take up to `most` messages of a queue. Also returns what makes a message's id a claim."""
        number = next(self._numbers)
        run = partial(queue_table.claim, queue=queue, owner=self._owner, number=number, seconds=self._lease, most=most)
        taken = self._writer.submit(run, needed=partial(queue_table.has_ready, queue=queue))
        return partial(Claim, number=number, owner=self._owner), taken

    def ack(self, claims: Sequence[Claim]) -> Settled:
        """Remove messages. The future resolves when that is done, or will be tried again later."""
        return self._settle(partial(queue_table.ack, claims=claims))

    def give_back(self, claims: Sequence[Claim], unseen: Sequence[Claim] = ()) -> Settled:
        """Give messages back, of which some have not been handed out; like `ack`."""
        return self._settle(partial(queue_table.give_back, claims=claims, unseen=unseen, limit=self._limit))

    def reject(self, claims: Sequence[Claim], reason: str) -> Settled:
        """Make messages dead letters; like `ack`."""
        return self._settle(partial(queue_table.reject, claims=claims, reason=reason), durable=True)

    async def renew(self) -> set[int]:
        """Renew the leases of this process; returns the ids of the messages that it still has."""
        run = partial(queue_table.extend, owner=self._owner, seconds=self._lease)
        kept = await self._writer.submit(run, needed=partial(queue_table.has_any, owner=self._owner))
        return kept or set()

    async def expire(self, dead: Sequence[str]) -> None:
        """Give back what dead processes have, and those whose lease expired."""
        await self._writer.submit(
            partial(queue_table.expire, dead=dead, limit=self._limit),
            needed=lambda db: bool(dead) or queue_table.has_expired(db),
        )

    def _settle(self, run: Run, *, durable: bool = False) -> Settled:
        settled: Settled = asyncio.get_running_loop().create_future()
        done = self._writer.submit(run, durable=durable)
        done.add_done_callback(partial(self._settled, run, durable, settled))
        return settled

    def _settled(self, run: Run, durable: bool, settled: Settled, done: asyncio.Future[Any]) -> None:
        if not settled.done():
            settled.set_result(None)
        error = done.exception()
        if error is None or self._closed:
            return
        # Until then the leases of these messages are renewed with all others: nobody else gets them.
        log.warning("messages not settled, will try again: %s", error)
        asyncio.get_running_loop().call_later(SETTLE_RETRY, self._settle_again, run, durable)

    def _settle_again(self, run: Run, durable: bool) -> None:
        if not self._closed:
            self._settle(run, durable=durable)


class SqliteConsumer(Consumer):
    """A consumer that keeps up to `prefetch` messages claimed."""

    def __init__(self, clerk: Clerk, queue: str, prefetch: int, leave: Callable[[SqliteConsumer], None]) -> None:
        self.queue = queue
        self._clerk = clerk
        self._prefetch = prefetch
        self._leave = leave
        self._waiting: deque[Delivery] = deque()
        self._arrived = asyncio.Event()
        # What was claimed and not settled, handed out or not, by message id.
        self._held: dict[int, Claim] = {}
        self._claiming: asyncio.Future[list[Taken] | None] | None = None
        self._look_again = False
        self._cancelled = False
        self._closed = False

    def refill(self) -> None:
        """Claim as much as there is room for, without waiting for it."""
        room = self._prefetch - len(self._held)
        if self._cancelled or room <= 0:
            return
        if self._claiming is not None:
            self._look_again = True
            return
        self._look_again = False
        name, self._claiming = self._clerk.claim(self.queue, room)
        self._claiming.add_done_callback(partial(self._claimed, name))

    def _claimed(self, name: Callable[[int], Claim], future: asyncio.Future[list[Taken] | None]) -> None:
        self._claiming = None
        if (error := future.exception()) is not None:
            log.warning("cannot take messages of %s now: %s", self.queue, error)
            return
        for taken in future.result() or ():
            claim = self._held[taken.id] = name(taken.id)
            self._waiting.append(Delivery(taken.message, self.queue, claim, taken.count - 1))
            self._arrived.set()
        if self._look_again:
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
        await self._settle(deliveries, self._clerk.ack)

    async def nack(self, deliveries: Sequence[Delivery]) -> None:
        await self._settle(deliveries, self._clerk.give_back)

    async def release(self, deliveries: Sequence[Delivery]) -> None:
        await self._settle(deliveries, partial(self._clerk.give_back, []))

    async def reject(self, deliveries: Sequence[Delivery], reason: str) -> None:
        await self._settle(deliveries, partial(self._clerk.reject, reason=reason))

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
            await self._clerk.give_back([], unseen)

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
            await self._clerk.give_back(held, unseen)
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
