"""The contract of a broker: what every back end promises, and the conformance suite checks.

**Queues.** A queue is durable, made when it is first used, and has a delivery limit: a message that was handed out
`delivery_limit` times without an ack goes to the dead-letter queue (`dts.wire.queues.DEAD`) by itself. Messages of a
queue are handed out about in the order in which they were published; a redelivered one may come later. The queues in
`dts.wire.queues.BOUNDED` hold so many messages and no more: the oldest are dropped, and are no dead letters.

**Publish** returns when every message is on stable storage; if it raises, each may or may not be stored and the
caller publishes them again. **Consume** hands each message to one consumer at a time, at most `prefetch`
unsettled ones to a consumer. A message that its consumer neither acks, nacks nor rejects is handed out again after
the consumer's end: at once when its process dies, or when its connection breaks (AMQP) or its lease expires (SQLite).
A delivery that outlived its connection or lease is stale: settling it does nothing, since the message belongs to
somebody else by then.

**Broadcast** hands small events to every subscriber that listens at that time, at most once each: a hint that may be
lost, never a record. A subscription tells when some may have been lost on their way to it, so that who must not go by
half of them asks anew.

A broker survives its service: while RabbitMQ is away, publishes wait up to their deadline and raise
BrokerUnavailable, consumers and subscriptions wait, and all resume by themselves when it is back.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import Self

DEFAULT_DELIVERY_LIMIT = 20
"""Hand-overs of a message before it is a dead letter. High, since a restart of a worker or broker costs one each."""

DEFAULT_PUBLISH_TIMEOUT = 30.0
"""Seconds that a publish waits for its confirms, so that a broker in alarm or away cannot hang its caller."""

HEADER_QUEUE = "x-dts-queue"
"""Header of a dead letter: the queue that it came from."""

HEADER_REASON = "x-dts-reason"
"""Header of a dead letter: why it is one."""

REASON_DELIVERY_LIMIT = "delivery_limit"
"""The message was handed out as often as its queue allows, and nobody acked it."""

REASON_REJECTED = "rejected"
"""Somebody rejected the message, and the text that tells why was lost."""


REASON_EXPIRED = "expired"
"""The broker dropped the message after a time, which DTS never asks for: an operator's policy says so."""

REASON_OVERFLOW = "maxlen"
"""The broker dropped the message since its queue was full, for the same reason."""


@dataclass(frozen=True, slots=True)
class Message:
    """Encoded bytes with what a reader must know before it decodes them. Headers hold short strings and integers."""

    body: bytes
    content_encoding: str = ""
    headers: Mapping[str, str | int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Delivery:
    """One hand-over of a message to a consumer.

    `count` is how often the message was handed out before, as far as the back end knows; 0 for the first time. `tag`
    means something to the consumer that it came from only. `refused` is why a dead letter is not genuine, empty if it
    is: then somebody outside the fleet may have published it, and nothing that it says may be acted on.
    """

    message: Message
    queue: str
    tag: object
    count: int = 0
    refused: str = ""

    @property
    def redelivered(self) -> bool:
        """Whether the message was handed out before."""
        return self.count > 0


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a dead letter came from, and why it is dead: a reason that `reject` was given, or one of REASON_…"""

    queue: str
    reason: str


def origin(message: Message) -> Origin | None:
    """What a message of the dead-letter queue tells about itself; None for a message that is no dead letter."""
    queue = message.headers.get(HEADER_QUEUE)
    if queue is None:
        return None
    return Origin(queue=str(queue), reason=str(message.headers.get(HEADER_REASON, "")))


def revived(message: Message) -> Message:
    """A dead letter as it was when it was alive, to be published to the queue of its `origin` again."""
    headers = {key: value for key, value in message.headers.items() if key not in (HEADER_QUEUE, HEADER_REASON)}
    return replace(message, headers=headers)


@dataclass(frozen=True, slots=True)
class QueueDepth:
    """Messages waiting for a consumer, consumers waiting for messages, and messages that consumers hold unsettled.

    `consumers` and `held` are None where not known.
    """

    ready: int
    consumers: int | None = None
    held: int | None = None


@dataclass(frozen=True, slots=True)
class Event:
    """A small event that was broadcast."""

    topic: str
    payload: str


class Consumer(ABC):
    """Takes messages off one queue. Made by `Broker.consume`; closed by its owner or with its broker."""

    @abstractmethod
    async def receive(self, max_messages: int = 1) -> list[Delivery]:
        """Wait for at least one delivery and return what is there, up to `max_messages`.

        Survives a broker that goes away and comes back. Safe to cancel: no delivery is lost by that. Returns an empty
        list once the consumer is cancelled or closed.
        """

    @abstractmethod
    async def ack(self, deliveries: Sequence[Delivery]) -> None:
        """Settle deliveries whose work is done; their messages are gone. Stale ones are passed over."""

    @abstractmethod
    async def nack(self, deliveries: Sequence[Delivery]) -> None:
        """Give deliveries back to the queue, to be handed out again at once. Stale ones are passed over."""

    @abstractmethod
    async def release(self, deliveries: Sequence[Delivery]) -> None:
        """Give deliveries back of which nothing was begun: as nack, but this hand-over does not count, if possible.

        They may come after all that waits in the queue. Stale ones are passed over.
        """

    @abstractmethod
    async def reject(self, deliveries: Sequence[Delivery], reason: str) -> None:
        """Send deliveries to the dead-letter queue, where `origin` tells where they came from, and the reason.

        A dead letter that is rejected stays one: it goes to the end of its queue with the new reason, and keeps its
        origin. Stale ones are passed over.
        """

    @abstractmethod
    async def cancel(self) -> None:
        """Take no more, and release what no receive has returned. What one has returned can be settled still.

        Receive returns an empty list from then on. The consumer is to be closed all the same. May be called twice.
        """

    @abstractmethod
    async def close(self) -> None:
        """Take no more, and give back at once what was handed out and not settled. May be called twice."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()


class Subscription(ABC):
    """Listens to topics. Made by `Broker.subscribe`; closed by its owner or with its broker."""

    missed: asyncio.Event
    """Set as soon as events may be lost on their way here: since the service is away, or they come faster than they are
    taken. Not set by a loss at their sender. Whoever makes up for them clears it, once `listening` has returned."""

    @abstractmethod
    async def listening(self) -> None:
        """Wait until events are received: at once, unless the service is away. Returns, too, when it is closed."""

    @abstractmethod
    async def get(self) -> Event | None:
        """The next event; None once the subscription is closed."""

    @abstractmethod
    async def close(self) -> None:
        """Listen no more. May be called twice."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()


class Broker(ABC):
    """A way to the queues. One object serves a whole process; all its methods may be called concurrently."""

    @property
    @abstractmethod
    def kind(self) -> str:
        """Which back end it is, by the scheme of its URL: sqlite or amqp."""

    @property
    def parts(self) -> tuple[Broker, ...]:
        """The brokers that this one is made of, the main one first: each has a dead-letter queue."""
        return (self,)

    @abstractmethod
    async def start(self) -> None:
        """Begin to connect, and return without waiting for a service that is away. May be called once.

        Raises:
            ConfigError: the URL can never work (unwritable path, unknown option).
        """

    @abstractmethod
    async def close(self) -> None:
        """Close consumers and subscriptions, and let go of the service. May be called twice, or without a start."""

    @abstractmethod
    async def ping(self) -> None:
        """Make sure that the broker answers now.

        Raises:
            BrokerUnavailable: it does not, within two seconds.
        """

    @abstractmethod
    async def declare(self, queues: Sequence[str]) -> None:
        """Make queues that are not there yet, which their first use would do, too.

        Made early they are on stable storage long before anything depends on them: RabbitMQ notes a new queue some
        moments after it has begun to confirm messages for it.

        Raises:
            BrokerUnavailable: the broker does not answer within a few seconds.
        """

    @abstractmethod
    async def publish(
        self, queue: str, messages: Sequence[Message], *, timeout: float = DEFAULT_PUBLISH_TIMEOUT
    ) -> None:
        """Append messages to a queue; return when all of them are confirmed durable.

        Raises:
            BrokerUnavailable: not all were confirmed within `timeout` seconds; any of them may be stored.
        """

    @abstractmethod
    async def consume(self, queue: str, *, prefetch: int) -> Consumer:
        """A new consumer of a queue, with at most `prefetch` unsettled deliveries at a time.

        Does not wait for a service that is away: the consumer resumes when it is there.
        """

    @abstractmethod
    async def depth(self, queue: str) -> QueueDepth:
        """How full a queue is; a queue that nobody has used yet is empty.

        Raises:
            BrokerUnavailable: the broker does not answer.
        """

    async def check(self, queue: str) -> str:
        """How a queue that is there differs from how it would be made now, in the broker's words; empty if not at all.

        Raises:
            BrokerUnavailable: the broker does not answer.
        """
        return ""

    async def may_read(self, queue: str) -> bool:
        """Whether this process's user may take messages off a queue; found out without taking any.

        Raises:
            BrokerUnavailable: the broker does not answer.
        """
        return True

    @abstractmethod
    async def claim_for(self, installation: bytes) -> None:
        """Note that the queues are those of an installation of DTS, which some bytes stand for.

        Two installations on the same queues would take each other's results. A back end whose queues are in files of
        one installation has nothing to do.

        Raises:
            BrokerUnavailable: the broker does not answer.
            ConfigError: they are another installation's.
        """

    @abstractmethod
    async def broadcast(self, topic: str, payload: str) -> bool:
        """Tell every present subscriber of a topic; never raises for a broker that is away, the event is lost then.

        `payload` is short: up to a few kilobytes. Returns False if nobody is told since the broker is away, and waits a
        little for those that are slow to take events.
        """

    @abstractmethod
    async def subscribe(self, topics: Sequence[str]) -> Subscription:
        """A new subscription to topics; events that are broadcast once this has returned are received.

        With a service that is away it returns, too, with `missed` set, and begins to receive when the service is there.
        """

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()
