"""What a process keeps of what it published, took or broadcast: nothing, however long it lives."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pytest

from dts.broker import Broker, open_broker
from dts.errors import BrokerUnavailable
from tests.conformance.broker.helpers import messages
from tests.services.base import free_port
from tests.services.rabbitmq import RabbitServer
from tests.services.waiting import PATIENCE, until


@contextmanager
def keeps_nothing(most: int = 1000) -> Iterator[None]:
    """Fail if more than `most` objects are left of what is done inside; one for each event would be many times that."""
    gc.collect()
    before = len(gc.get_objects()), sys.getallocatedblocks()
    yield
    gc.collect()
    grown = len(gc.get_objects()) - before[0], sys.getallocatedblocks() - before[1]
    assert grown[0] < most, f"{grown[0]} objects more than before"
    assert grown[1] < 10 * most, f"{grown[1]} blocks of memory more than before"


async def answers(broker: Broker) -> bool:
    """Whether it answers in the time that a ping may take."""
    with suppress(BrokerUnavailable):
        await broker.ping()
        return True
    return False


async def test_nothing_is_kept_of_an_event_after_it_was_broadcast(broker: Broker, queue: str) -> None:
    async def send(event: str) -> None:
        await until(lambda: broker.broadcast(queue, event), "an event to be sent")  # a busy broker may miss one

    await send("first")
    with keeps_nothing():
        for number in range(20_000):
            await send(f"run-{number}")
        await until(lambda: answers(broker), "the broker to have read all of that")


async def test_nothing_is_kept_of_messages_after_they_were_acked(broker: Broker, queue: str) -> None:
    async with await broker.consume(queue, prefetch=100) as consumer:

        async def pass_on(count: int) -> None:
            for number in range(count):
                await broker.publish(queue, messages(*(f"{number}-{place}" for place in range(20))))
                taken = 0
                while taken < 20:
                    deliveries = await consumer.receive(100)
                    await consumer.ack(deliveries)
                    taken += len(deliveries)

        await pass_on(20)
        with keeps_nothing():
            await pass_on(250)


async def test_nothing_is_kept_of_messages_that_were_given_up(broker: Broker, queue: str) -> None:
    await broker.publish(queue, messages("first"))

    async def give_up(count: int) -> None:
        for _ in range(count):
            with pytest.raises(BrokerUnavailable):
                await broker.publish(queue, messages(*"abcdefghij"), timeout=0)
        await until(lambda: answers(broker), "the broker to have read all of that")

    await give_up(20)
    with keeps_nothing():
        await give_up(2000)


async def test_nothing_is_kept_of_messages_that_are_never_confirmed(rabbit: RabbitServer, queue: str) -> None:
    """A frozen RabbitMQ confirms nothing; what was written to it until the publisher gave up is published again."""
    async with open_broker(rabbit.url) as broker:
        await broker.publish(queue, messages("first"))
        await freeze_and_publish(rabbit, broker, queue)


async def freeze_and_publish(rabbit: RabbitServer, broker: Broker, queue: str) -> None:
    rabbit.freeze()
    try:
        with keeps_nothing():
            for _ in range(300):
                with pytest.raises(BrokerUnavailable):
                    await broker.publish(queue, messages(*"abcdefghij"), timeout=0.005)
    finally:
        rabbit.thaw()
    await broker.publish(queue, messages("last"), timeout=PATIENCE)


async def test_nothing_is_kept_of_attempts_to_reach_a_broker_that_is_away(queue: str) -> None:
    async with open_broker(f"amqp://127.0.0.1:{free_port()}") as broker:
        with keeps_nothing():
            for number in range(2000):
                assert not await broker.broadcast(queue, f"run-{number}")
