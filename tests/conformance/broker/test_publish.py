"""Publishing: what is confirmed is there, as it was, and in order."""

from __future__ import annotations

import asyncio
import os

import pytest

from dts.broker import Broker, Message, open_broker
from dts.errors import BrokerUnavailable, ConfigError
from tests.conformance.broker.helpers import bodies, depth_becomes, messages, numbered, take
from tests.services.waiting import within


async def test_messages_arrive_in_the_order_of_publishing(broker: Broker, queue: str) -> None:
    for start in range(0, 300, 30):
        await broker.publish(queue, numbered(30, name=f"{start}"))

    async with await broker.consume(queue, prefetch=50) as consumer:
        arrived = []
        while len(arrived) < 300:
            deliveries = await take(consumer, 10)
            arrived += bodies(deliveries)
            await consumer.ack(deliveries)

    assert arrived == [f"{start}-{number}" for start in range(0, 300, 30) for number in range(30)]


async def test_a_message_arrives_as_it_was(broker: Broker, queue: str) -> None:
    sent = [
        Message(b"\x00\xff bytes", "deflate", {"run": "r-1", "jobs": 256, "low": -5, "big": 1 << 40, "e": ""}),
        Message(b""),
        Message(b"text", headers={"name": "žluťoučký"}),
    ]

    await broker.publish(queue, sent)

    async with await broker.consume(queue, prefetch=10) as consumer:
        deliveries = await take(consumer, 3)
        assert [delivery.message for delivery in deliveries] == sent
        assert {delivery.queue for delivery in deliveries} == {queue}
        assert {delivery.count for delivery in deliveries} == {0}


async def test_a_large_body_arrives(broker: Broker, queue: str) -> None:
    body = os.urandom(5 << 20)

    await broker.publish(queue, [Message(body), *messages("small")])

    async with await broker.consume(queue, prefetch=2) as consumer:
        large, small = await take(consumer, 2)
        assert large.message.body == body
        assert small.message.body == b"small"


async def test_what_was_confirmed_is_there_after_a_restart_of_the_process(url: str, queue: str) -> None:
    async with open_broker(url) as broker:
        await broker.publish(queue, messages("kept"))

    async with open_broker(url) as broker, await broker.consume(queue, prefetch=1) as consumer:
        assert bodies(await take(consumer, 1)) == ["kept"]


async def test_thousands_of_concurrent_publishes_all_return(broker: Broker, queue: str) -> None:
    async with within():
        await asyncio.gather(*(broker.publish(queue, [message]) for message in numbered(5_000)))

    await depth_becomes(broker, queue, 5_000)


async def test_concurrent_publishes_to_several_queues_are_confirmed(broker: Broker, queue: str) -> None:
    queues = [f"{queue}.{number}" for number in range(4)]

    async with within():
        await asyncio.gather(*(broker.publish(name, numbered(3)) for name in queues for _ in range(50)))

    for name in queues:
        await depth_becomes(broker, name, 150)


async def test_nothing_to_publish_is_published_at_once(broker: Broker, queue: str) -> None:
    await broker.publish(queue, [])

    assert (await broker.depth(queue)).ready == 0


async def test_an_abandoned_publish_disturbs_no_other(broker: Broker, queue: str) -> None:
    await broker.publish(queue, messages("first"))
    abandoned = [asyncio.create_task(broker.publish(queue, numbered(20))) for _ in range(50)]
    await asyncio.sleep(0)
    for task in abandoned:
        task.cancel()
    await asyncio.gather(*abandoned, return_exceptions=True)

    async with within():
        await broker.publish(queue, messages("last"))


async def test_depth_counts_what_waits(broker: Broker, queue: str) -> None:
    assert (await broker.depth(queue)).ready == 0

    await broker.publish(queue, numbered(7))
    await depth_becomes(broker, queue, 7)

    async with await broker.consume(queue, prefetch=3) as consumer:
        await take(consumer, 3)
        await depth_becomes(broker, queue, 4)
    await depth_becomes(broker, queue, 7)


async def test_queues_can_be_declared_before_their_first_use(broker: Broker, queue: str) -> None:
    queues = [f"{queue}.{number}" for number in range(3)]

    await broker.declare(queues)
    await broker.declare(queues)

    assert [(await broker.depth(name)).ready for name in queues] == [0, 0, 0]
    await broker.publish(queues[0], messages("fits"))
    await depth_becomes(broker, queues[0], 1)


async def test_ping_answers(broker: Broker) -> None:
    await broker.ping()


async def test_a_closed_broker_can_be_closed_again_and_publishes_nothing(url: str, queue: str) -> None:
    broker = open_broker(url)
    await broker.start()
    await broker.close()
    await broker.close()

    with pytest.raises(BrokerUnavailable):
        await broker.publish(queue, messages("late"), timeout=0.2)


async def test_a_broker_that_was_never_started_can_be_closed(url: str) -> None:
    await open_broker(url).close()


@pytest.mark.parametrize(
    "url",
    [
        "sqlite:///",
        "sqlite://host/path.db",
        "sqlite:///:memory:",
        "sqlite:///queue.db?colour=red",
        "sqlite:///queue.db?lease=0",
        "sqlite:///queue.db?delivery_limit=many",
        "amqp://host:port/",
        "amqp://host/?colour=red",
        "amqp://host/?heartbeat=0",
        "http://host/",
    ],
)
async def test_a_url_that_cannot_work_is_refused(url: str) -> None:
    with pytest.raises(ConfigError):
        open_broker(url)
