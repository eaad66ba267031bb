"""The embedded broker: queues in one SQLite file, for the processes of one machine, with nothing to install.

Beside the file `queue.db` there is a folder `queue.db.wake`, by which the processes wake each other (`sqlite_wake`).
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Sequence
from functools import partial
from typing import Any

from dts.broker.abc import (
    DEFAULT_PUBLISH_TIMEOUT,
    Broker,
    Consumer,
    Message,
    QueueDepth,
    Subscription,
)
from dts.broker.sqlite import queue as queue_table
from dts.broker.sqlite.consumer import Clerk, Run, SqliteConsumer, SqliteSubscription
from dts.broker.sqlite.url import parse_sqlite_url
from dts.broker.sqlite.wake import Mailbox
from dts.broker.sqlite.writer import Woken, Writer
from dts.errors import BrokerUnavailable, ConfigError

log = logging.getLogger(__name__)

POLL = 0.5
"""Seconds between looks for what no hint came for: lost hints, expired leases, dead processes."""

ANSWER_TIMEOUT = 2.0
"""Seconds for a ping or a depth."""

BROADCAST_TIMEOUT = 1.0
"""Seconds that a broadcast waits for processes whose pipes are full."""

_ROOM = 0.005  # seconds between looks whether there is room in a pipe

START_TIMEOUT = 5.0
"""Seconds that a start waits for another process that writes; then what is asked for waits instead."""


class SqliteBroker(Broker):
    """Queues in the file at a URL: see `parse_sqlite_url`.

    Raises:
        ConfigError: the URL cannot be read.
    """

    def __init__(self, url: str) -> None:
        self._url = parse_sqlite_url(url)
        path = self._url.path
        folder = path.with_name(path.name + ".wake")
        self._mailbox = Mailbox(folder, self._wake, self._take_event, self._miss_events)
        self._writer = Writer(path, folder, queue_table.prepare, self._mailbox.send_queues, self._wake_all)
        self._clerk = Clerk(
            self._writer,
            self._mailbox.owner,
            lease=self._url.lease,
            delivery_limit=self._url.delivery_limit,
        )
        self._consumers: set[SqliteConsumer] = set()
        self._subscriptions: set[SqliteSubscription] = set()
        self._upkeep: asyncio.Task[None] | None = None

    @property
    def kind(self) -> str:
        return "sqlite"

    async def start(self) -> None:
        folder = self._url.path.parent
        try:
            folder.mkdir(parents=True, exist_ok=True)
            if not os.access(folder, os.W_OK):
                raise PermissionError("its folder may not be written by this user")
            self._mailbox.open()
        except OSError as error:
            raise ConfigError(f"queue file {self._url.path}: {error}") from error
        opened = self._writer.start()
        try:
            async with asyncio.timeout(START_TIMEOUT):
                await asyncio.shield(opened)
        except TimeoutError:
            log.warning("queue file %s is busy; what is asked for waits", self._url.path)
        except ConfigError:
            await self.close()
            raise

    async def close(self) -> None:
        if self._upkeep is not None:
            self._upkeep.cancel()
            await asyncio.gather(self._upkeep, return_exceptions=True)
            self._upkeep = None
        self._clerk.close()
        await asyncio.gather(*(consumer.close() for consumer in self._consumers))
        await asyncio.gather(*(subscription.close() for subscription in self._subscriptions))
        await self._writer.close()
        self._mailbox.close()

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
            partial(queue_table.publish, queue=queue, messages=tuple(messages)),
            timeout=timeout,
            durable=True,
            droppable=True,
            size=sum(len(message.body) for message in messages),
        )

    async def consume(self, queue: str, *, prefetch: int) -> Consumer:
        consumer = SqliteConsumer(self._clerk, queue, prefetch, self._consumers.discard)
        self._consumers.add(consumer)
        self._mailbox.listen()
        if self._upkeep is None:
            self._upkeep = asyncio.create_task(self._keep_up(), name="sqlite-broker-upkeep")
        consumer.refill()
        return consumer

    async def depth(self, queue: str) -> QueueDepth:
        ready, held = await self._answer(partial(queue_table.count, queue=queue), read=True)
        return QueueDepth(ready=ready, held=held)

    async def broadcast(self, topic: str, payload: str) -> bool:
        self._take_event(topic, payload)
        left = self._mailbox.send_event(topic, payload)
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
                left = self._mailbox.send_rest(left)
        finally:
            self._mailbox.give_up(left)

    async def subscribe(self, topics: Sequence[str]) -> Subscription:
        self._mailbox.listen()
        subscription = SqliteSubscription(topics, self._subscriptions.discard)
        self._subscriptions.add(subscription)
        return subscription

    async def _answer(self, run: Run, *, timeout: float = ANSWER_TIMEOUT, **how: Any) -> Any:
        """Have work done and wait for it.

        Raises:
            BrokerUnavailable: it is not done in `timeout` seconds, or cannot be.
        """
        try:
            async with asyncio.timeout(timeout):
                return await self._writer.submit(run, **how)
        except TimeoutError as error:
            raise BrokerUnavailable(
                f"queue file {self._url.path}: not done in {timeout:g} s, since another process is writing"
            ) from error

    def _wake(self, queue: str) -> None:
        for consumer in self._consumers:
            if consumer.queue == queue:
                consumer.refill()

    def _wake_all(self, queues: Woken) -> None:
        for queue in queues:
            self._wake(queue)

    def _take_event(self, topic: str, payload: str) -> None:
        for subscription in self._subscriptions:
            subscription.take(topic, payload)

    def _miss_events(self) -> None:
        for subscription in self._subscriptions:
            subscription.missed.set()

    async def _keep_up(self) -> None:
        """Renew leases, expire those of others, and look for what no hint came for."""
        clock = asyncio.get_running_loop().time
        renew_at = clock() + self._url.lease / 3
        pause = min(POLL, self._url.lease / 4)
        while True:
            try:
                await self._expire_others()
                if clock() >= renew_at:
                    renew_at = clock() + self._url.lease / 3
                    kept = await self._clerk.renew()
                    for consumer in self._consumers:
                        consumer.keep_only(kept)
            except (BrokerUnavailable, OSError) as error:
                log.warning("upkeep of queue file %s: %s", self._url.path, error)
            for consumer in self._consumers:
                consumer.refill()
            await asyncio.sleep(pause)

    async def _expire_others(self) -> None:
        dead = self._mailbox.dead_owners()
        await self._clerk.expire(dead)
        for owner in dead:
            log.info("process %s is gone: its messages are handed out again", owner)
            self._mailbox.bury(owner)
