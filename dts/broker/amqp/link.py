"""A connection to RabbitMQ that is made again whenever it is lost, and what every user of one needs."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import random
import socket
import time
from collections import deque
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager

from dts.broker.amqp.channel import AMQP_ERRORS, Channel, ChannelClosed, Connection, ConnectionLost
from dts.broker.amqp.url import AmqpUrl, Node
from dts.runtime.backoff import Backoff
from dts.version import __version__
from dts.wire.queues import BOUNDED, DEAD

log = logging.getLogger(__name__)

CONNECT_TIMEOUT = 10.0
"""Seconds for TCP, TLS and the AMQP handshake together."""

NODE_TIMEOUT = 4.0
"""The same where there are other nodes to try, one of which may answer while this one's host is gone or frozen. The
last one to be tried gets CONNECT_TIMEOUT, and then each of them: they may only be slow."""

REQUEST_TIMEOUT = 30.0
"""Seconds for the broker to answer a request such as a declaration, which a busy cluster may take its time for."""

REGISTRY_SAVED_AFTER = 1.0
"""Seconds before a queue is used that may be new. RabbitMQ (seen with 3.10) writes its registry of quorum queues to
disk only after half a second: killed before that, it comes back with a queue that has no leader ever again, and what
was confirmed is lost."""

LEADERLESS_TIMES, LEADERLESS_SECONDS = 3, 5.0
"""So many requests about a queue in a row, over so many seconds at least, that were not answered by a broker which
answers about others meanwhile: then the queue has no leader."""

FIRST_PAUSE, LONGEST_PAUSE = 0.05, 3.0
"""Seconds between attempts to connect, or to open a channel."""

UNLIMITED = 1_000_000_000
"""The delivery limit of queues that have none. RabbitMQ 4 has one of 20 by default, and drops what exceeds it where
there is no dead-letter exchange; -1 means no limit to it, and 0 to RabbitMQ 3. This means the same to both."""

NOT_FOUND = 404
"""AMQP 0-9-1 reply code: there is no such queue."""

PRECONDITION_FAILED = 406
"""AMQP 0-9-1 reply code: among others, the queue exists with other arguments."""


def in_words(error: BaseException) -> str:
    """Why a broker cannot be reached, for people."""
    if isinstance(error, ConnectionRefusedError):
        return "connection refused: nobody listens there"
    if isinstance(error, socket.gaierror):
        return "there is no host of that name"
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if isinstance(error, ConnectionLost):
        return f"it closed the connection: {error}" if str(error) else "it closed the connection, or speaks no AMQP"
    return str(error) or repr(error)


INSTALLATION_QUEUE = "dts.installation"
"""A queue that is never used: its arguments say whose the others are."""


class KnownQueues:
    """When this process first saw each queue, over all connections of a broker object.

    Whoever made a queue, it may have been a moment ago and in another process: it is used only when it has been known
    for REGISTRY_SAVED_AFTER seconds. All who wait for that wait at the same time.
    """

    def __init__(self) -> None:
        self._since: dict[str, float] = {}
        self._usable: set[str] = set()
        # By queue: when it first did not answer, on which connection, and how often since then.
        self._silent: dict[str, tuple[float, Connection, int]] = {}
        self._answered_at = 0.0  # for whichever queue

    def saw(self, queue: str, *, is_new: bool) -> None:
        """A queue is there now; `is_new` if it was not a moment ago."""
        if is_new:
            self.forget(queue)
        self._since.setdefault(queue, time.monotonic())

    def forget(self, queue: str) -> None:
        """A queue is gone: the next of that name is another."""
        self._since.pop(queue, None)
        self._usable.discard(queue)

    def usable(self, queues: Iterable[str]) -> bool:
        """Whether all of these may be used at once."""
        return self._usable.issuperset(queues)

    async def wait(self, queues: Iterable[str]) -> None:
        """Wait until all of these that are there may be used."""
        left = {queue for queue in queues if queue not in self._usable}
        while waiting := [self._since[queue] for queue in left if queue in self._since]:
            delay = max(waiting) + REGISTRY_SAVED_AFTER - time.monotonic()
            if delay <= 0:
                break
            await asyncio.sleep(delay)
        self._usable.update(left & self._since.keys())

    def answered(self, queue: str) -> None:
        """The broker has answered a request about a queue."""
        self._answered_at = time.monotonic()
        self._silent.pop(queue, None)

    def silent(self, queue: str, connection: Connection | None) -> None:
        """A request about a queue was not answered in time; says so once when no leader can be the only reason."""
        if connection is None or not connection.is_open or connection.blocked:
            return
        now = time.monotonic()
        first, before, times = self._silent.get(queue, (now, connection, 0))
        if before is not connection:
            first, times = now, 0
        if times < LEADERLESS_TIMES and now - first < LEADERLESS_SECONDS:
            times = min(times + 1, LEADERLESS_TIMES - 1)
        elif times < LEADERLESS_TIMES and self._answered_at > first:
            times += 1
            if times == LEADERLESS_TIMES:
                log.error(
                    "queue %s does not answer while the connection is healthy: RabbitMQ has no leader for it. "
                    "It must be deleted (rabbitmqctl delete_queue %s) to be made anew",
                    queue,
                    queue,
                )
        self._silent[queue] = first, connection, times


async def connect(url: AmqpUrl, node: Node, purpose: str, timeout: float = CONNECT_TIMEOUT) -> Connection:
    """Open a connection to a node, within `timeout` seconds.

    Raises:
        AMQP_ERRORS: nobody answers, or what answers refuses the user or the virtual host, or is not AMQP.
    """
    properties = {
        "product": "dts",
        "product_version": __version__,
        "connection_name": f"dts {purpose} {socket.gethostname()}",
        "capabilities": {
            "publisher_confirms": True,
            "basic.nack": True,
            "consumer_cancel_notify": True,
            "connection.blocked": True,
            # Without it the broker just hangs up on a wrong password.
            "authentication_failure_close": True,
        },
    }
    loop, tls = asyncio.get_running_loop(), url.tls_context()
    connection: Connection | None = None
    try:
        async with asyncio.timeout(timeout):
            transport, connection = await loop.create_connection(
                lambda: Connection(heartbeat=url.heartbeat, client_properties=properties),
                node.host,
                node.port,
                ssl=tls,
            )
            transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            await connection.start_connection(node.host, node.port, url.user, url.password, url.vhost)
    except BaseException as error:
        if connection is not None:
            connection.abort()
            if connection.refusal:
                raise ConnectionLost(connection.refusal) from error
        if isinstance(error, (*AMQP_ERRORS, asyncio.CancelledError)):
            raise
        raise ConnectionLost() from error
    connection.begin_heartbeats()
    return connection


class Link:
    """Keeps one connection open from `start` to `close`. `queues` is shared by the links of a broker object.

    Of several nodes it begins with one at random, so that clients are spread, and tries the others in turn when that
    does not answer or is lost; only when none of them answered does it wait.
    """

    def __init__(self, url: AmqpUrl, purpose: str, queues: KnownQueues) -> None:
        self._url = url
        self._nodes = deque(random.sample(url.nodes, len(url.nodes)))
        self._purpose = purpose
        self.queues = queues
        self._connection: Connection | None = None
        self._up = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self.tried = asyncio.Event()
        """Set once the first attempt to connect has ended in whichever way."""
        self.trouble: BaseException | None = None
        """Why the last attempt to connect has failed; None if it has not."""

    @property
    def current(self) -> Connection | None:
        """The connection, if it is open now."""
        return self._connection if self._connection is not None and self._connection.is_open else None

    def start(self) -> None:
        """Begin to connect."""
        self._task = asyncio.create_task(self._run(), name=f"amqp-{self._purpose}")

    async def close(self) -> None:
        """Close the connection and make no other. May be called twice."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None

    async def connection(self) -> Connection:
        """The open connection; waits for it as long as it takes."""
        while (connection := self.current) is None:
            self._up.clear()
            await self._up.wait()
        return connection

    async def _run(self) -> None:
        backoff = Backoff(FIRST_PAUSE, LONGEST_PAUSE)
        failures = 0
        while True:
            node = self._nodes[0]
            others_untried = failures + 1 < len(self._nodes)
            timeout = NODE_TIMEOUT if others_untried else CONNECT_TIMEOUT
            try:
                connection = await connect(self._url, node, self._purpose, timeout)
            except Exception as error:  # noqa: BLE001  whatever it is, it is logged, and tried again
                failures += 1
                self._note_failure(node, error, failures)
                self._nodes.rotate(-1)
                if failures % len(self._nodes) == 0:
                    self.tried.set()
                    await backoff.wait()
                continue
            log.info("connected to %s for %s", self._url.at(node), self._purpose)
            failures = 0
            await self._hold(connection, backoff)
            self._nodes.rotate(-1)
            log.warning("lost the connection to %s for %s, connecting again", self._url.at(node), self._purpose)
            if len(self._nodes) == 1:
                await backoff.wait()

    def _note_failure(self, node: Node, error: Exception, failures: int) -> None:
        self.trouble = error
        if not isinstance(error, AMQP_ERRORS):
            log.error("cannot connect to %s, will try again", self._url.at(node), exc_info=error)
            return
        level = logging.DEBUG if failures > len(self._nodes) else logging.WARNING
        then = "trying another node" if failures % len(self._nodes) else "will try again"
        log.log(level, "cannot connect to %s, %s: %s", self._url.at(node), then, in_words(error))

    async def _hold(self, connection: Connection, backoff: Backoff) -> None:
        """Offer a connection for as long as it lives. One that lived for a second ends the waiting of failures."""
        clock = asyncio.get_running_loop().time
        since = clock()
        self._connection = connection
        self.trouble = None
        self.tried.set()
        self._up.set()
        try:
            await connection.connection_closed.wait()
        finally:
            self._connection = None
            await connection.shut()
        if clock() - since > 1:
            backoff.reset()


@asynccontextmanager
async def scratch_channel(connection: Connection) -> AsyncIterator[Channel]:
    """A channel for something that may fail, since a failure closes the channel that it happens on."""
    channel: Channel = await connection.channel()
    try:
        yield channel
    finally:
        channel.discard()


async def ensure_queues(connection: Connection, queues: Sequence[str], delivery_limit: int, known: KnownQueues) -> None:
    """Make the queues that are not there, and the dead-letter queue before them; once per connection.

    Returns when they may be used: see `KnownQueues`.

    Raises:
        AMQP_ERRORS: the broker refused or did not answer.
    """
    if connection.declared.issuperset(queues) and known.usable(queues):
        return
    needed = list(dict.fromkeys((DEAD, *queues)))
    async with asyncio.timeout(REQUEST_TIMEOUT), connection.declaring:
        for name in needed:
            if name not in connection.declared:
                began = time.monotonic()
                try:
                    is_new = await _declare(connection, name, _arguments(name, delivery_limit))
                except (TimeoutError, asyncio.CancelledError):  # by a deadline of ours, or of the caller's
                    if time.monotonic() - began > 1:
                        known.silent(name, connection)
                    raise
                known.saw(name, is_new=is_new)
                connection.declared.add(name)
    await known.wait(needed)  # the lock is free meanwhile, so that others can declare and wait as well


def gone(connection: Connection, queue: str, known: KnownQueues) -> None:
    """Have a queue that is not there any more made anew before it is used again."""
    connection.declared.discard(queue)
    known.forget(queue)


async def _declare(connection: Connection, queue: str, arguments: dict[str, str | int]) -> bool:
    """Declare a queue; returns whether it was not there before."""
    is_new = not await _exists(connection, queue)
    try:
        async with scratch_channel(connection) as channel:
            await channel.queue_declare(queue, durable=True, arguments=arguments)
    except ChannelClosed as error:
        if error.code != PRECONDITION_FAILED:
            raise
        # Arguments of a queue cannot be changed: what an older configuration made is used as it is.
        log.warning("queue %s exists with other arguments, and is used so: %s", queue, error.message)
    return is_new


async def difference(connection: Connection, queue: str, delivery_limit: int) -> str:
    """How a queue's arguments differ from those that it would be made with, in the broker's words; empty if not.

    Raises:
        AMQP_ERRORS: the broker did not answer.
    """
    if not await _exists(connection, queue):
        return ""
    try:
        async with scratch_channel(connection) as channel:
            await channel.queue_declare(queue, durable=True, arguments=_arguments(queue, delivery_limit))
    except ChannelClosed as error:
        if error.code != PRECONDITION_FAILED:
            raise
        return str(error.message)
    return ""


async def _exists(connection: Connection, queue: str) -> bool:
    try:
        async with scratch_channel(connection) as channel:
            await channel.queue_declare(queue, passive=True)
    except ChannelClosed as error:
        if error.code != NOT_FOUND:
            raise
        return False
    return True


def _arguments(queue: str, delivery_limit: int) -> dict[str, str | int]:
    if queue == DEAD:
        return {"x-queue-type": "quorum", "x-delivery-limit": UNLIMITED}
    if queue in BOUNDED:
        return {
            "x-queue-type": "quorum",
            "x-delivery-limit": UNLIMITED,
            "x-max-length": BOUNDED[queue],
            "x-overflow": "drop-head",
        }
    return {
        "x-queue-type": "quorum",
        # RabbitMQ counts hand-overs after the first.
        "x-delivery-limit": delivery_limit - 1,
        "x-dead-letter-exchange": "",
        "x-dead-letter-routing-key": DEAD,
        # Confirmed by the dead-letter queue before it leaves this one; RabbitMQ wants the overflow policy with it.
        "x-dead-letter-strategy": "at-least-once",
        "x-overflow": "reject-publish",
    }


async def claim(connection: Connection, installation: bytes) -> bool:
    """Have a queue stand for the installation that the others are of; whether one of another installation is there.

    RabbitMQ keeps the arguments with which a queue was made, and refuses to declare it with others, whoever tries at
    the same time. Nothing is ever published to this queue, so a time to live means nothing: it is the installation's
    number.

    Raises:
        AMQP_ERRORS: the broker did not answer, or refused for another reason.
    """
    number = int.from_bytes(hashlib.sha256(installation).digest()[:4]) >> 1
    try:
        async with scratch_channel(connection) as channel:
            await channel.queue_declare(INSTALLATION_QUEUE, durable=True, arguments={"x-message-ttl": number})
    except ChannelClosed as error:
        if error.code != PRECONDITION_FAILED or "inequivalent arg" not in str(error.message):
            raise
        return True
    return False
