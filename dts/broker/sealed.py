"""A broker that seals what it publishes and refuses what is not sealed with the fleet's key: see `dts.wire.seal`."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter as Counts
from collections.abc import Sequence
from dataclasses import replace

from prometheus_client import Counter

from dts.broker.abc import (
    DEFAULT_PUBLISH_TIMEOUT,
    Broker,
    Consumer,
    Delivery,
    Event,
    Message,
    QueueDepth,
    Subscription,
    origin,
)
from dts.errors import BrokerError
from dts.wire.queues import DEAD
from dts.wire.seal import HEADER_SEAL, Seal

logger = logging.getLogger(__name__)

_REFUSED = Counter("dts_refused_messages", "Messages and events without a valid seal, by where they came.", ["where"])

_LOG_EVERY = 60.0
"""Seconds between two records about refused messages of one queue: a flood of them must not flood the log."""


class SealedBroker(Broker):
    """`broker`, with messages and events that carry the fleet's seal.

    A message without a valid seal goes to the dead letters, an event is dropped; both are counted in `refused`, by
    queue or topic. A dead letter without a valid seal is handed out, since it has to be kept, with `refused` set.
    """

    def __init__(self, broker: Broker, seal: Seal, refused: Counts[str] | None = None) -> None:
        self._broker = broker
        self._seal = seal
        self.refused = Counts[str]() if refused is None else refused
        self._refusals = _Refusals(self.refused)
        inner = broker.parts
        self._parts = (self,) if inner == (broker,) else tuple(SealedBroker(one, seal, self.refused) for one in inner)

    @property
    def kind(self) -> str:
        return self._broker.kind

    @property
    def parts(self) -> tuple[Broker, ...]:
        return self._parts

    async def start(self) -> None:
        await self._broker.start()

    async def close(self) -> None:
        await self._broker.close()

    async def ping(self) -> None:
        await self._broker.ping()

    async def declare(self, queues: Sequence[str]) -> None:
        await self._broker.declare(queues)

    async def publish(
        self, queue: str, messages: Sequence[Message], *, timeout: float = DEFAULT_PUBLISH_TIMEOUT
    ) -> None:
        await self._broker.publish(queue, [self._sealed(queue, message) for message in messages], timeout=timeout)

    def _sealed(self, queue: str, message: Message) -> Message:
        seal = self._seal.of_message(queue, message.body, message.content_encoding, message.headers)
        return Message(message.body, message.content_encoding, {**message.headers, HEADER_SEAL: seal})

    async def consume(self, queue: str, *, prefetch: int) -> Consumer:
        consumer = await self._broker.consume(queue, prefetch=prefetch)
        return _SealedConsumer(consumer, self._seal, self._refusals)

    async def depth(self, queue: str) -> QueueDepth:
        return await self._broker.depth(queue)

    async def check(self, queue: str) -> str:
        return await self._broker.check(queue)

    async def may_read(self, queue: str) -> bool:
        return await self._broker.may_read(queue)

    async def claim_for(self, installation: bytes) -> None:
        await self._broker.claim_for(installation)

    async def broadcast(self, topic: str, payload: str) -> bool:
        return await self._broker.broadcast(topic, self._seal.of_event(topic, payload))

    async def subscribe(self, topics: Sequence[str]) -> Subscription:
        return _SealedSubscription(await self._broker.subscribe(topics), self._seal, self._refusals)


class _Refusals:
    """Counts what is refused, and logs it now and then."""

    def __init__(self, counts: Counts[str]) -> None:
        self._counts = counts
        self._logged: dict[str, float] = {}

    def note(self, where: str, fault: str) -> None:
        """Note that something on a queue or a topic was refused."""
        self._counts[where] += 1
        _REFUSED.labels(where).inc()
        now = time.monotonic()
        if now - self._logged.get(where, -_LOG_EVERY) >= _LOG_EVERY:
            self._logged[where] = now
            logger.error(
                "refused a message on %s: %s; %d refused there so far. Either a process of this fleet has another "
                "[fleet] key_file, or somebody else publishes with access to the broker: change its password then",
                where,
                fault,
                self._counts[where],
            )


class _SealedConsumer(Consumer):
    def __init__(self, consumer: Consumer, seal: Seal, refusals: _Refusals) -> None:
        self._consumer = consumer
        self._seal = seal
        self._refusals = refusals
        self._rejecting: set[asyncio.Task[None]] = set()

    async def receive(self, max_messages: int = 1) -> list[Delivery]:
        while deliveries := await self._consumer.receive(max_messages):
            # From here on nothing is awaited, so that a cancelled receive has taken nothing.
            if good := [delivery for delivery in map(self._checked, deliveries) if delivery is not None]:
                return good
        return []

    def _checked(self, delivery: Delivery) -> Delivery | None:
        """The delivery, unless it is refused."""
        message, queue = delivery.message, delivery.queue
        dead = queue == DEAD
        if dead:
            came = origin(message)
            queue = came.queue if came is not None else DEAD
        fault = self._seal.fault(queue, message.body, message.content_encoding, message.headers)
        if not fault:
            return delivery
        self._refusals.note(delivery.queue, fault)
        if dead:
            return replace(delivery, refused=fault)
        task = asyncio.create_task(self._refuse(delivery, fault), name=f"refusal on {queue}")
        self._rejecting.add(task)
        task.add_done_callback(self._rejecting.discard)
        return None

    async def _refuse(self, delivery: Delivery, fault: str) -> None:
        try:
            await self._consumer.reject([delivery], f"refused: {fault}")
        except BrokerError as error:  # it comes again, and is refused then
            logger.info("a refused message of %s is not rejected now: %s", delivery.queue, error)

    async def ack(self, deliveries: Sequence[Delivery]) -> None:
        await self._consumer.ack(deliveries)

    async def nack(self, deliveries: Sequence[Delivery]) -> None:
        await self._consumer.nack(deliveries)

    async def release(self, deliveries: Sequence[Delivery]) -> None:
        await self._consumer.release(deliveries)

    async def reject(self, deliveries: Sequence[Delivery], reason: str) -> None:
        await self._consumer.reject(deliveries, reason)

    async def cancel(self) -> None:
        await self._consumer.cancel()

    async def close(self) -> None:
        await asyncio.gather(*self._rejecting)
        await self._consumer.close()


class _SealedSubscription(Subscription):
    def __init__(self, subscription: Subscription, seal: Seal, refusals: _Refusals) -> None:
        self._subscription = subscription
        self._seal = seal
        self._refusals = refusals
        self.missed = subscription.missed

    async def listening(self) -> None:
        await self._subscription.listening()

    async def get(self) -> Event | None:
        while (event := await self._subscription.get()) is not None:
            payload, fault = self._seal.open_event(event.topic, event.payload)
            if not fault:
                return Event(event.topic, payload)
            self._refusals.note(f"events of {event.topic}", fault)
        return None

    async def close(self) -> None:
        await self._subscription.close()
