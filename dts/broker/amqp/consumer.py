"""The AMQP side of `Consumer` and `Subscription`."""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from dts.broker.abc import (
    HEADER_QUEUE,
    HEADER_REASON,
    REASON_DELIVERY_LIMIT,
    REASON_EXPIRED,
    REASON_OVERFLOW,
    REASON_REJECTED,
    Consumer,
    Delivery,
    Event,
    Message,
    Subscription,
)
from dts.broker.amqp.channel import AMQP_ERRORS, Channel, Connection, Incoming
from dts.broker.amqp.keeper import ChannelKeeper
from dts.broker.amqp.link import REQUEST_TIMEOUT, Link, ensure_queues, gone
from dts.errors import BrokerUnavailable
from dts.runtime.tasks import wait_first
from dts.wire.queues import DEAD

log = logging.getLogger(__name__)

EVENTS_EXCHANGE = "dts.events"
"""The exchange that small events pass through, with their topic as routing key."""

EVENTS_KEPT = 10_000
"""Events that wait for a slow subscriber; then the oldest are dropped, as they are hints only."""

REJECT_TIMEOUT = 10.0
"""Seconds for the dead-letter queue to confirm a rejected message, and for a queue to confirm one that is released."""

_DEATHS = frozenset({REASON_DELIVERY_LIMIT, REASON_EXPIRED, REASON_OVERFLOW})
"""Why RabbitMQ makes a message a dead letter by itself, in its own words."""

_BROKER_HEADERS = ("x-death", "x-first-death-", "x-last-death-", "x-delivery-count", "x-acquired-count")

Put = Callable[[str, Sequence[Message]], Awaitable[None]]
"""Publishes messages to a queue. Raises BrokerUnavailable."""


class AmqpConsumer(ChannelKeeper, Consumer):
    """A consumer on a channel of its own."""

    def __init__(self, link: Link, queue: str, prefetch: int, delivery_limit: int, put: Put) -> None:
        super().__init__(link, f"consumer of {queue}")
        self._queue = queue
        self._prefetch = prefetch
        self._limit = delivery_limit
        self._put = put
        self._waiting: deque[Delivery] = deque()
        self._arrived = asyncio.Event()
        # Delivery tags that were not settled, oldest first. Settling one twice would make the broker close the channel.
        self._unsettled: dict[int, None] = {}
        self._cancelled = False
        self._late: list[Delivery] | None = None  # what comes while it is being cancelled

    async def _set_up(self, connection: Connection, channel: Channel) -> None:
        if self._cancelled:
            return  # what it had went with its channel
        await ensure_queues(connection, [self._queue], self._limit, self._link.queues)
        await channel.basic_qos(prefetch_count=self._prefetch)
        channel.on_delivery = lambda incoming: self._take(channel, incoming)
        try:
            await channel.basic_consume(None, self._queue)
        finally:
            if not channel.is_open and connection.is_open:
                # Most likely the queue is gone: it is declared again next time.
                gone(connection, self._queue, self._link.queues)

        self._link.queues.answered(self._queue)

    def _timed_out(self, connection: Connection) -> None:
        if self._link.queues.usable([self._queue]):  # else it was another queue that held up its declaration
            self._link.queues.silent(self._queue, connection)

    def _take(self, channel: Channel, incoming: Incoming) -> None:
        self._unsettled[incoming.tag] = None
        tag = channel, incoming.tag
        delivery = Delivery(message=_message(incoming), queue=self._queue, tag=tag, count=_count(incoming))
        if not self._cancelled:
            self._waiting.append(delivery)
            self._arrived.set()
        elif self._late is not None:
            self._late.append(delivery)
        else:
            self._nack([incoming.tag], requeue=True)

    def _forget(self) -> None:
        self._waiting.clear()
        self._unsettled.clear()

    def _wake(self) -> None:
        self._arrived.set()

    async def receive(self, max_messages: int = 1) -> list[Delivery]:
        while not self._waiting:
            if self._cancelled or self._closed:
                return []
            self._arrived.clear()
            await self._arrived.wait()
        # From here on nothing is awaited, so that a cancelled receive has taken nothing.
        return [self._waiting.popleft() for _ in range(min(max_messages, len(self._waiting)))]

    async def ack(self, deliveries: Sequence[Delivery]) -> None:
        self._ack(self._fresh(deliveries))

    async def nack(self, deliveries: Sequence[Delivery]) -> None:
        self._nack(self._fresh(deliveries), requeue=True)

    async def release(self, deliveries: Sequence[Delivery]) -> None:
        # The broker counts every hand-over that does not end with an ack, so an equal message takes its place. One that
        # came back before keeps its count: else what kills its workers might never reach the limit.
        first = [delivery for delivery in deliveries if not delivery.count]
        self._nack(self._fresh([delivery for delivery in deliveries if delivery.count]), requeue=True)
        error = await self._move(first, self._queue, [delivery.message for delivery in first], requeue=True)
        if error is not None:
            log.warning("messages of %s that were released count as handed out: %s", self._queue, error)

    async def reject(self, deliveries: Sequence[Delivery], reason: str) -> None:
        # AMQP's own reject cannot carry the reason.
        letters = [_dead_letter(delivery, reason) for delivery in deliveries]
        error = await self._move(deliveries, DEAD, letters, requeue=None if self._queue == DEAD else False)
        if error is not None:
            log.warning("dead letters of %s lose their reason %r: %s", self._queue, reason, error)

    async def _move(
        self, deliveries: Sequence[Delivery], queue: str, messages: Sequence[Message], *, requeue: bool | None
    ) -> BrokerUnavailable | None:
        """Put messages in a queue in place of deliveries, and ack those when that is safe; returns why it is not.

        They are nacked then with `requeue`, unless that is None.
        """
        tags, channel = self._fresh(deliveries), self._channel
        fresh = [one for one, each in zip(messages, deliveries, strict=True) if self._number(each) in tags]
        if not fresh:
            return None
        failure = None
        try:
            await self._put(queue, fresh)
        except BrokerUnavailable as error:
            failure = error
        if channel is self._channel:
            left = [tag for tag in tags if tag in self._unsettled]
            if failure is None:
                self._ack(left)
            elif requeue is not None:
                self._nack(left, requeue=requeue)
        return failure

    async def cancel(self) -> None:
        if self._cancelled:
            return
        self._cancelled = True
        unseen, channel = list(self._waiting), self._channel
        late = self._late = []
        self._waiting.clear()
        self._arrived.set()
        if channel is not None and not self._ready.is_set():
            channel.discard()  # it is just being set up, and nothing of it was received
        elif channel is not None:
            try:
                async with asyncio.timeout(REQUEST_TIMEOUT):
                    await channel.basic_cancel(channel.last_consumer_tag)
            except AMQP_ERRORS as error:
                log.warning("consumer of %s: cannot be cancelled, its channel is gone: %r", self._queue, error)
        self._late = None
        # Only now, since what is given back before would come here again.
        await self.release([*unseen, *late])

    def _number(self, delivery: Delivery) -> int | None:
        """The delivery's tag, unless it came by a channel that is gone, or is settled."""
        channel, number = delivery.tag if isinstance(delivery.tag, tuple) else (None, None)
        return number if channel is not None and channel is self._channel and number in self._unsettled else None

    def _fresh(self, deliveries: Sequence[Delivery]) -> list[int]:
        numbers = {number for delivery in deliveries if (number := self._number(delivery)) is not None}
        return sorted(numbers)

    def _ack(self, tags: Sequence[int]) -> None:
        """Ack; where all unsettled ones up to a tag are meant, with one frame."""
        if self._channel is None or not tags:
            return
        meant = set(tags)
        prefix = 0
        for tag in self._unsettled:
            if tag not in meant:
                break
            prefix += 1
        frames = [(tags[prefix - 1], True)] if prefix else []
        frames += [(tag, False) for tag in tags[prefix:]]
        self._settled(tags)
        self._channel.ack(frames)

    def _nack(self, tags: Sequence[int], *, requeue: bool) -> None:
        if self._channel is not None:
            self._settled(tags)
            self._channel.nack(tags, requeue=requeue)

    def _settled(self, tags: Iterable[int]) -> None:
        for tag in tags:
            del self._unsettled[tag]


class AmqpSubscription(ChannelKeeper, Subscription):
    """A subscription with a queue of its own that lives as long as the connection."""

    def __init__(self, link: Link, topics: Sequence[str]) -> None:
        super().__init__(link, f"subscription to {' '.join(topics)}")
        self._topics = tuple(topics)
        self._events: deque[Event] = deque(maxlen=EVENTS_KEPT)
        self._arrived = asyncio.Event()
        self.missed = asyncio.Event()

    async def _set_up(self, connection: Connection, channel: Channel) -> None:
        queue = f"{EVENTS_EXCHANGE}.{uuid.uuid4().hex}"
        await channel.exchange_declare(EVENTS_EXCHANGE, "direct", durable=True)
        await channel.queue_declare(queue, exclusive=True, auto_delete=True, arguments={"x-max-length": EVENTS_KEPT})
        for topic in self._topics:
            await channel.queue_bind(queue, EVENTS_EXCHANGE, topic)
        channel.on_delivery = self._take
        await channel.basic_consume(None, queue, no_ack=True)

    def _take(self, incoming: Incoming) -> None:
        if len(self._events) == self._events.maxlen:
            self.missed.set()
        self._events.append(Event(incoming.routing_key, incoming.body.decode(errors="replace")))
        self._arrived.set()

    def _forget(self) -> None:
        """Events that arrived already stay: nobody else gets them."""
        self.missed.set()

    def _wake(self) -> None:
        self._arrived.set()
        self._ready.set()

    async def listening(self) -> None:
        if not self._closed:
            await self._ready.wait()

    async def settled_in(self, timeout: float) -> None:
        """Wait until events arrive, or it is clear that the broker is away, at most `timeout` seconds."""
        try:
            async with asyncio.timeout(timeout):
                await wait_first(self._ready, self._link.tried)
                if self._link.current is not None:
                    await self._ready.wait()
        except TimeoutError:
            log.warning("%s begins later: the broker has not answered in %.0f s", self._name, timeout)
        if self._ready.is_set():
            self.missed.clear()  # an attempt may have failed before
        else:
            self.missed.set()

    async def get(self) -> Event | None:
        while not self._events:
            if self._closed:
                return None
            self._arrived.clear()
            await self._arrived.wait()
        return self._events.popleft()


def _message(incoming: Incoming) -> Message:
    return Message(incoming.body, incoming.content_encoding, _headers(incoming.headers))


def _headers(table: Mapping[str, Any]) -> dict[str, str | int]:
    """The headers that the publisher set, and what the broker's nested records tell about a death, in two flat ones."""
    headers: dict[str, str | int] = {
        key: value
        for key, value in table.items()
        if isinstance(value, str | int) and not key.startswith(_BROKER_HEADERS)
    }
    deaths = table.get("x-death")
    if isinstance(deaths, list) and deaths and isinstance(deaths[0], dict):
        reason = deaths[0].get("reason")
        headers[HEADER_QUEUE] = str(deaths[0].get("queue"))
        headers[HEADER_REASON] = reason if reason in _DEATHS else REASON_REJECTED
    return headers


def _count(incoming: Incoming) -> int:
    count = incoming.headers.get("x-delivery-count")
    return count if isinstance(count, int) else int(incoming.redelivered)


def _dead_letter(delivery: Delivery, reason: str) -> Message:
    headers = dict(delivery.message.headers)
    if delivery.queue != DEAD:
        headers[HEADER_QUEUE] = delivery.queue
    headers[HEADER_REASON] = reason
    return replace(delivery.message, headers=headers)
