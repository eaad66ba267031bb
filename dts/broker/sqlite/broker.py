"""The embedded broker: queues in one SQLite file, for the processes of one machine, with nothing to install.

Beside the file `queue.db` there is a folder `queue.db.wake`, by which the processes wake each other (`ProcessPipe`).
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Iterable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, TypeVar

from dts.broker.abc import (
    DEFAULT_PUBLISH_TIMEOUT,
    Broker,
    Consumer,
    Message,
    QueueDepth,
    Subscription,
)
from dts.broker.sqlite import queue as queue_table
from dts.broker.sqlite.claims import ClaimStore
from dts.broker.sqlite.consumer import SqliteConsumer, SqliteSubscription
from dts.broker.sqlite.file import open_queue_file
from dts.broker.sqlite.pipe import ProcessPipe
from dts.broker.sqlite.url import parse_sqlite_url
from dts.embedded.thread import DatabaseFile, DatabaseThread, Operation
from dts.errors import BrokerUnavailable, ConfigError

T = TypeVar("T")

log = logging.getLogger(__name__)

POLL = 0.5
"""Seconds between looks for what no hint came for: lost hints, expired leases, dead processes."""

ANSWER_TIMEOUT = 2.0
"""Seconds for a ping or a depth."""

BROADCAST_TIMEOUT = 1.0
"""Seconds that a broadcast waits for processes whose pipes are full."""

_ROOM = 0.005  # seconds between looks whether there is room in a pipe


class SqliteBroker(Broker):
    """Queues in the file at a URL: see `parse_sqlite_url`.

    Raises:
        ConfigError: the URL cannot be read.
    """

    def __init__(self, url: str) -> None:
        self._url = parse_sqlite_url(url)
        path = self._url.path
        folder = path.with_name(path.name + ".wake")
        self._pipe = ProcessPipe(folder, self._wake, self._take_event, self._miss_events)
        self._woken: queue_table.Woken = set()  # by the transaction at hand; used by the thread only
        file = DatabaseFile(
            path, f"queue file {path}", partial(open_queue_file, path, folder), BrokerUnavailable, is_made_anew=True
        )
        self._thread = DatabaseThread("sqlite-broker", file, self._announce)
        self._claims = ClaimStore(
            self._thread,
            self._pipe.owner,
            self._woken,
            lease=self._url.lease,
            delivery_limit=self._url.delivery_limit,
        )
        self._loop: asyncio.AbstractEventLoop
        self._consumers: set[SqliteConsumer] = set()
        self._subscriptions: set[SqliteSubscription] = set()
        self._upkeep: asyncio.Task[None] | None = None

    @property
    def kind(self) -> str:
        return "sqlite"

    async def start(self) -> None:
        folder = self._url.path.parent
        self._loop = asyncio.get_running_loop()
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)  # of two users: make it for both before
            if not os.access(folder, os.W_OK):
                raise PermissionError("its folder may not be written by this user")
            self._pipe.open()
        except OSError as error:
            raise ConfigError(f"queue file {self._url.path}: {error}") from error
        try:
            await self._thread.start()
        except BrokerUnavailable as error:
            log.warning("%s: publishing and taking messages begins when it can be used", error)
        except ConfigError:
            await self.close()
            raise

    async def close(self) -> None:
        if self._upkeep is not None:
            self._upkeep.cancel()
            await asyncio.gather(self._upkeep, return_exceptions=True)
            self._upkeep = None
        self._claims.close()
        await asyncio.gather(*(consumer.close() for consumer in self._consumers))
        await asyncio.gather(*(subscription.close() for subscription in self._subscriptions))
        await self._thread.close()
        self._pipe.close()

    async def ping(self) -> None:
        await self._answer(queue_table.check, read=True)

    async def declare(self, queues: Sequence[str]) -> None:
        """Nothing to make: a queue is a name in each message's row."""

    async def publish(
        self, queue: str, messages: Sequence[Message], *, timeout: float = DEFAULT_PUBLISH_TIMEOUT
    ) -> None:
        if not messages:
            return
        await self._answer(
            partial(queue_table.publish, woken=self._woken, queue=queue, messages=tuple(messages)),
            timeout=timeout,
            droppable=True,
            size=sum(len(message.body) for message in messages),
        )

    async def consume(self, queue: str, *, prefetch: int) -> Consumer:
        consumer = SqliteConsumer(self._claims, queue, prefetch, self._consumers.discard)
        self._consumers.add(consumer)
        self._pipe.listen()
        if self._upkeep is None:
            self._upkeep = asyncio.create_task(self._keep_up(), name="sqlite-broker-upkeep")
        consumer.refill()
        return consumer

    async def depth(self, queue: str) -> QueueDepth:
        ready, held = await self._answer(partial(queue_table.count, queue=queue), read=True)
        return QueueDepth(ready=ready, held=held)

    async def claim_for(self, installation: bytes) -> None:
        return

    async def broadcast(self, topic: str, payload: str) -> bool:
        self._take_event(topic, payload)
        left = self._pipe.send_event(topic, payload)
        if left:
            await self._broadcast_rest(left)
        return True

    async def _broadcast_rest(self, left: dict[str, list[bytes]]) -> None:
        """Wait for room in pipes, which a process that is alive makes in a moment."""
        clock = asyncio.get_running_loop().time
        deadline = clock() + BROADCAST_TIMEOUT
        try:
            while left and clock() < deadline:
                await asyncio.sleep(_ROOM)
                left = self._pipe.send_rest(left)
        finally:
            self._pipe.give_up(left)

    async def subscribe(self, topics: Sequence[str]) -> Subscription:
        self._pipe.listen()
        subscription = SqliteSubscription(topics, self._subscriptions.discard)
        self._subscriptions.add(subscription)
        return subscription

    async def _answer(self, operation: Operation[T], *, timeout: float = ANSWER_TIMEOUT, **how: Any) -> T:
        """Have work done and wait for it.

        Raises:
            BrokerUnavailable: it is not done in `timeout` seconds, or cannot be.
        """
        try:
            async with asyncio.timeout(timeout):
                return await self._thread.submit(operation, **how)
        except TimeoutError as error:
            raise BrokerUnavailable(
                f"queue file {self._url.path}: not done in {timeout:g} s, since another process is writing"
            ) from error

    def _wake(self, queue: str) -> None:
        for consumer in self._consumers:
            if consumer.queue == queue:
                consumer.refill()

    def _announce(self) -> None:
        """In the thread, after a commit: wake the consumers of queues that have messages to hand out."""
        if self._woken:
            queues = sorted(self._woken)
            self._woken.clear()
            with suppress(RuntimeError):  # the event loop is closed
                self._loop.call_soon_threadsafe(self._wake_all, queues)
            self._pipe.send_queues(queues)

    def _wake_all(self, queues: Iterable[str]) -> None:
        for queue in queues:
            self._wake(queue)

    def _take_event(self, topic: str, payload: str) -> None:
        for subscription in self._subscriptions:
            subscription.take(topic, payload)

    def _miss_events(self) -> None:
        for subscription in self._subscriptions:
            subscription.missed.set()

    async def _keep_up(self) -> None:
        """Renew leases, expire those of others, and look for messages that no hint came for.

        Nothing ends it: without it a lost hint, as of a process that dies between its commit and the hint, would leave
        messages where they are.
        """
        clock = asyncio.get_running_loop().time
        renew_at = clock() + self._url.lease / 3
        pause = min(POLL, self._url.lease / 4)
        while True:
            for consumer in self._consumers:
                consumer.refill()
            try:
                self._pipe.restore()
                await self._expire_others()
                if clock() >= renew_at:
                    renew_at = clock() + self._url.lease / 3
                    await self._renew()
            except (BrokerUnavailable, OSError) as error:
                log.debug("upkeep of queue file %s: %s", self._url.path, error)
            except Exception:
                log.exception("upkeep of queue file %s has failed, will try again", self._url.path)
            await asyncio.sleep(pause)

    async def _renew(self) -> None:
        kept = await self._claims.renew()
        for consumer in self._consumers:
            consumer.keep_only(kept)

    async def _expire_others(self) -> None:
        dead = self._pipe.dead_owners()
        await self._claims.expire(dead)
        for owner in dead:
            log.info("process %s is gone: its messages are handed out again", owner)
            self._pipe.remove(owner)
