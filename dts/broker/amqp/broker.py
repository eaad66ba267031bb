"""The broker for a fleet: RabbitMQ, with quorum queues, publisher confirms and a dead-letter queue.

Two connections: one to publish by and one for everything else, since a broker in alarm stops reading from connections
that publish, and acks must go on then. Each is made again by its `Link` whenever it is lost.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence

from dts.broker.abc import (
    DEFAULT_PUBLISH_TIMEOUT,
    Broker,
    Consumer,
    Message,
    QueueDepth,
    Subscription,
)
from dts.broker.amqp.batch import Batch
from dts.broker.amqp.channel import AMQP_ERRORS, Channel, ChannelClosed, Connection
from dts.broker.amqp.consumer import EVENTS_EXCHANGE, REJECT_TIMEOUT, AmqpConsumer, AmqpSubscription
from dts.broker.amqp.keeper import ChannelKeeper
from dts.broker.amqp.link import (
    FIRST_PAUSE,
    INSTALLATION_QUEUE,
    NOT_FOUND,
    REQUEST_TIMEOUT,
    KnownQueues,
    Link,
    claim,
    difference,
    ensure_queues,
    gone,
    in_words,
    scratch_channel,
)
from dts.broker.amqp.rights import may_read
from dts.broker.amqp.url import parse_amqp_url
from dts.errors import BrokerUnavailable, ConfigError
from dts.runtime.backoff import Backoff

log = logging.getLogger(__name__)

PING_TIMEOUT = 2.0
DEPTH_TIMEOUT = 5.0
DECLARE_TIMEOUT = 10.0
BROADCAST_TIMEOUT = 2.0
SUBSCRIBE_TIMEOUT = 5.0


class AmqpBroker(Broker):
    """RabbitMQ at a URL: `amqp://user:password@host:5672/vhost`, options in `parse_amqp_url`.

    Of a cluster it names the nodes, `h1:5672,h2:5672,h3:5672`; when one is lost, another is connected to.

    Raises:
        ConfigError: the URL cannot be read.
    """

    def __init__(self, url: str) -> None:
        self._url = parse_amqp_url(url)
        self._url.tls_context()  # a file of the URL that cannot be used is said now, not at each connection
        self._queues = KnownQueues()
        self._outward = Link(self._url, "publishing", self._queues)
        self._inward = Link(self._url, "consuming", self._queues)
        self._confirmed = SharedChannel(Channel.confirm_select)
        self._events = SharedChannel(_declare_events)
        self._keepers: set[ChannelKeeper] = set()
        self._refusal = ""  # why the broker has closed the channel that messages were published on

    @property
    def kind(self) -> str:
        return "amqp"

    async def start(self) -> None:
        # It tells each channel that opens or closes at INFO, and every ping opens one.
        logging.getLogger("aioamqp").setLevel(logging.WARNING)
        self._outward.start()
        self._inward.start()

    async def close(self) -> None:
        await asyncio.gather(*(keeper.close() for keeper in self._keepers))
        self._keepers.clear()
        await asyncio.gather(self._outward.close(), self._inward.close())

    async def ping(self) -> None:
        try:
            async with asyncio.timeout(PING_TIMEOUT):
                async with scratch_channel(await self._inward.connection()):
                    return
        except AMQP_ERRORS as error:
            trouble = self._inward.trouble or error  # why there is no connection says more than that a wait was in vain
            raise BrokerUnavailable(f"{self._url} does not answer: {in_words(trouble)}") from error

    async def declare(self, queues: Sequence[str]) -> None:
        try:
            async with asyncio.timeout(DECLARE_TIMEOUT):
                connection = await self._inward.connection()
                await ensure_queues(connection, queues, self._url.delivery_limit, self._queues)
        except AMQP_ERRORS as error:
            raise BrokerUnavailable(f"{self._url} does not declare queues: {error!r}") from error

    async def publish(
        self, queue: str, messages: Sequence[Message], *, timeout: float = DEFAULT_PUBLISH_TIMEOUT
    ) -> None:
        left = list(messages)
        self._refusal = ""
        backoff = Backoff(FIRST_PAUSE, 1.0)
        try:
            async with asyncio.timeout(timeout):
                while left:
                    left = await self._publish_once(queue, left)
                    if left:
                        await backoff.wait()
        except TimeoutError as error:
            if self._queues.usable([queue]):
                self._queues.silent(queue, self._outward.current)
            raise BrokerUnavailable(self._why_not(queue, len(left), timeout)) from error

    async def _publish_once(self, queue: str, messages: list[Message]) -> list[Message]:
        """Publish and return the messages that are not known to be stored.

        When the caller gives up, the connection stays. One that is truly dead falls to the heartbeats, while one that
        is only blocked would be replaced by another that is blocked as well.
        """
        connection = await self._outward.connection()
        batch = Batch(messages)
        try:
            await ensure_queues(connection, [queue], self._url.delivery_limit, self._queues)
            channel = await self._confirmed.get(connection)
            await channel.publish(queue, batch)
            if not batch.remaining():  # a queue without a leader may refuse messages as well
                self._queues.answered(queue)
            elif channel.lost.is_set():
                self._refusal = channel.why
            elif not batch.returned:
                # When the node of a queue's leader is lost, RabbitMQ (seen with 3.10) may refuse all that an older
                # channel brings for that queue from then on, although the queue has had another leader long since.
                log.info("%s refuses messages for %s: trying again on another channel", self._url, queue)
                self._confirmed.replace(channel)
        except AMQP_ERRORS as error:
            log.info("cannot publish to %s now: %r", queue, error)
        finally:
            if batch.returned:
                gone(connection, queue, self._queues)
        return batch.remaining()

    def _why_not(self, queue: str, count: int, timeout: float) -> str:
        connection = self._outward.current
        if connection is None:
            reason = "there is no connection"
        elif connection.blocked:
            reason = f"it blocks publishers: {connection.blocked}"
        elif self._refusal:
            reason = f"it closed the channel: {self._refusal}"
        else:
            reason = "it does not answer"
        return f"{self._url} did not confirm {count} message(s) for {queue} in {timeout:g} s: {reason}"

    async def consume(self, queue: str, *, prefetch: int) -> Consumer:
        consumer = AmqpConsumer(self._inward, queue, prefetch, self._url.delivery_limit, self._put)
        self._adopt(consumer)
        return consumer

    async def _put(self, queue: str, messages: Sequence[Message]) -> None:
        await self.publish(queue, messages, timeout=REJECT_TIMEOUT)

    async def depth(self, queue: str) -> QueueDepth:
        try:
            async with asyncio.timeout(DEPTH_TIMEOUT):
                async with scratch_channel(await self._inward.connection()) as channel:
                    found = await channel.queue_declare(queue, passive=True)
        except ChannelClosed as error:
            if error.code == NOT_FOUND:
                return QueueDepth(ready=0, consumers=0)
            raise BrokerUnavailable(f"cannot tell the depth of {queue}: {error.message}") from error
        except AMQP_ERRORS as error:
            raise BrokerUnavailable(f"{self._url} does not tell the depth of {queue}: {error!r}") from error
        return QueueDepth(ready=found["message_count"], consumers=found["consumer_count"])

    async def check(self, queue: str) -> str:
        try:
            async with asyncio.timeout(DEPTH_TIMEOUT):
                return await difference(await self._inward.connection(), queue, self._url.delivery_limit)
        except AMQP_ERRORS as error:
            raise BrokerUnavailable(f"{self._url} does not tell how {queue} is: {error!r}") from error

    async def may_read(self, queue: str) -> bool:
        try:
            async with asyncio.timeout(DEPTH_TIMEOUT):
                return await may_read(await self._inward.connection(), queue)
        except AMQP_ERRORS as error:
            raise BrokerUnavailable(f"{self._url} does not tell who may read {queue}: {error!r}") from error

    async def claim_for(self, installation: bytes) -> None:
        try:
            async with asyncio.timeout(DECLARE_TIMEOUT):
                stranger = await claim(await self._inward.connection(), installation)
        except AMQP_ERRORS as error:
            raise BrokerUnavailable(f"{self._url} does not answer: {error!r}") from error
        if stranger:
            raise ConfigError(
                f"the queues at {self._url} are those of servers with another key file, another installation: "
                f"give each a virtual host of its own (rabbitmqctl add_vhost). If that one is gone for good, delete "
                f"the queue {INSTALLATION_QUEUE}, and this server's start claims them"
            )

    async def broadcast(self, topic: str, payload: str) -> bool:
        connection = self._outward.current
        if connection is None or connection.blocked:
            log.debug("event on %s lost: the broker is away", topic)
            return False
        try:
            async with asyncio.timeout(BROADCAST_TIMEOUT):
                channel = await self._events.get(connection)
                await channel.send(EVENTS_EXCHANGE, topic, Message(payload.encode()))
        except AMQP_ERRORS as error:
            log.debug("event on %s lost: %r", topic, error)
            return False
        return True

    async def subscribe(self, topics: Sequence[str]) -> Subscription:
        subscription = AmqpSubscription(self._inward, topics)
        self._adopt(subscription)
        await subscription.settled_in(SUBSCRIBE_TIMEOUT)
        return subscription

    def _adopt(self, keeper: ChannelKeeper) -> None:
        self._keepers = {known for known in self._keepers if not known.closed} | {keeper}
        keeper.open()


class SharedChannel:
    """One channel of a connection for all callers, opened when it is first wanted, and again after it was lost."""

    def __init__(self, prepare: Callable[[Channel], Awaitable[object]]) -> None:
        self._prepare = prepare
        self._channel: Channel | None = None
        self._replaced: list[Channel] = []  # messages of others may wait for confirms on these
        self._lock = asyncio.Lock()

    async def get(self, connection: Connection) -> Channel:
        """The channel, ready to publish on.

        Raises:
            AMQP_ERRORS: it cannot be opened now.
        """
        if (channel := self._usable(connection)) is not None:
            return channel
        async with self._lock:
            if (channel := self._usable(connection)) is not None:
                return channel
            async with asyncio.timeout(REQUEST_TIMEOUT):
                opened: Channel = await connection.channel()
                await self._prepare(opened)
            self._channel = opened
            self._discard_replaced()
            return opened

    def replace(self, channel: Channel) -> None:
        """Give this channel to nobody any more; what waits on it goes on waiting."""
        if channel is self._channel:
            self._replaced.append(channel)
            self._channel = None

    def _discard_replaced(self) -> None:
        for channel in self._replaced:
            if channel.idle:
                channel.discard()
        self._replaced = [channel for channel in self._replaced if not channel.lost.is_set()]

    def _usable(self, connection: Connection) -> Channel | None:
        channel = self._channel
        if channel is None or channel.lost.is_set() or channel.protocol is not connection:
            return None
        return channel


async def _declare_events(channel: Channel) -> None:
    await channel.exchange_declare(EVENTS_EXCHANGE, "direct", durable=True)
