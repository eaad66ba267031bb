"""What several of the cases need."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence

from dts.broker import Broker, Consumer, Delivery, Message, origin
from dts.wire.queues import DEAD
from tests.services.waiting import within


def messages(*bodies: str) -> list[Message]:
    """Messages with these bodies."""
    return [Message(body.encode()) for body in bodies]


def numbered(count: int, name: str = "m") -> list[Message]:
    """Messages m-0, m-1, …"""
    return messages(*(f"{name}-{number}" for number in range(count)))


def bodies(deliveries: Iterable[Delivery]) -> list[str]:
    """The bodies of deliveries."""
    return [delivery.message.body.decode() for delivery in deliveries]


async def take(consumer: Consumer, count: int) -> list[Delivery]:
    """Receive exactly so many."""
    taken: list[Delivery] = []
    async with within():
        while len(taken) < count:
            taken += await consumer.receive(count - len(taken))
    return taken


async def nothing_comes(consumer: Consumer, seconds: float = 0.2) -> bool:
    """Whether nothing arrives for a while."""
    try:
        async with asyncio.timeout(seconds):
            await consumer.receive()
    except TimeoutError:
        return True
    return False


async def depth_becomes(broker: Broker, queue: str, ready: int) -> None:
    """Wait until so many messages of a queue are ready; RabbitMQ counts a little later than it confirms."""
    async with within():
        while (await broker.depth(queue)).ready != ready:
            await asyncio.sleep(0.02)


async def dead_letters(broker: Broker, queue: str, count: int) -> Sequence[Delivery]:
    """Take so many dead letters that came from a queue, and drop those of other tests."""
    found: list[Delivery] = []
    async with await broker.consume(DEAD, prefetch=100) as consumer, within():
        while len(found) < count:
            taken = await consumer.receive(100)
            await consumer.ack(taken)
            found += [one for one in taken if (came := origin(one.message)) and came.queue == queue]
    return found
