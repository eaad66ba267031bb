"""A sealed broker over each back end: what is not sealed with the fleet's key is refused, and all else is as before."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from dts.broker import Broker, Message, open_broker, origin, revived
from dts.broker.sealed import SealedBroker
from dts.wire.queues import DEAD
from dts.wire.seal import Seal
from tests.services.waiting import within

SEAL, OTHER = Seal([b"fleet" * 10]), Seal([b"other" * 10])


@pytest.fixture
async def broker(url: str) -> AsyncIterator[Broker]:
    async with open_broker(url, seal=SEAL) as started:
        yield started


@pytest.fixture
async def bare(url: str) -> AsyncIterator[Broker]:
    """The same queues for somebody who has the URL alone."""
    async with open_broker(url) as started:
        yield started


def test_nothing_of_a_broker_is_left_unsealed_by_accident() -> None:
    own = {name for name in vars(Broker) if not name.startswith("_")}
    assert own <= set(vars(SealedBroker)), "a new method of a broker must be passed on, and sealed where it publishes"


async def test_what_the_fleet_publishes_arrives(broker: Broker, queue: str) -> None:
    messages = [Message(b"one", "deflate", {"run": "r", "count": 1}), Message(b"", "", {})]
    await broker.publish(queue, messages)
    async with within(), await broker.consume(queue, prefetch=10) as consumer:
        found: list[bytes] = []
        while len(found) < 2:
            deliveries = await consumer.receive(10)
            found += [delivery.message.body for delivery in deliveries]
            await consumer.ack(deliveries)
    assert found == [b"one", b""]


async def test_a_message_without_the_seal_is_a_dead_letter(
    broker: Broker, bare: Broker, queue: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with within(), await broker.consume(queue, prefetch=10) as consumer:
        await broker.publish("elsewhere", [Message(b"moved")])
        async with await bare.consume("elsewhere", prefetch=1) as there:
            [moved] = await there.receive()
            await there.ack([moved])
        await open_and_publish(bare, queue, moved.message)
        await broker.publish(queue, [Message(b"good")])
        [delivery] = await consumer.receive(10)
        assert delivery.message.body == b"good"
        await consumer.ack([delivery])
        async with await broker.consume(DEAD, prefetch=10) as dead:
            reasons: dict[bytes, str] = {}
            while len(reasons) < 4:
                for letter in await dead.receive(10):
                    came = origin(letter.message)
                    assert came is not None
                    if came.queue == queue:
                        assert letter.refused
                        reasons[letter.message.body] = came.reason
                    await dead.ack([letter])
    assert reasons.keys() == {b"forged", b"altered", b"others", b"moved"}
    assert all(reason.startswith("refused: ") for reason in reasons.values()), reasons
    assert isinstance(broker, SealedBroker)
    assert broker.refused[queue] == 4
    assert [record.levelno for record in caplog.records if "refused a message on " + queue in record.message] == [
        logging.ERROR
    ]


async def open_and_publish(bare: Broker, queue: str, moved: Message) -> None:
    """What somebody may try who can publish, and read what passes."""
    genuine = SealedBroker(bare, SEAL)._sealed(queue, Message(b"genuine", "", {"count": 1}))
    others = SealedBroker(bare, OTHER)._sealed(queue, Message(b"others", "", {"count": 1}))
    forged = Message(b"forged", "", {"count": 1})
    await bare.publish(queue, [forged, replace(genuine, body=b"altered"), others, moved])


async def test_a_genuine_dead_letter_is_known_as_one(broker: Broker, bare: Broker, queue: str) -> None:
    await broker.publish(queue, [Message(b"work", "", {"count": 1})])
    async with within(), await broker.consume(queue, prefetch=1) as consumer:
        await consumer.reject(await consumer.receive(), "nobody can read it")
        await bare.publish(DEAD, [Message(b"forged", "", {"x-dts-queue": queue, "x-dts-reason": "delivery_limit"})])
        found: dict[bytes, str] = {}
        async with await broker.consume(DEAD, prefetch=10) as dead:
            while len(found) < 2:
                for letter in await dead.receive(10):
                    came = origin(letter.message)
                    if came is not None and came.queue == queue:
                        found[letter.message.body] = letter.refused
                        if not letter.refused:
                            await broker.publish(came.queue, [revived(letter.message)])
                    await dead.ack([letter])
        [again] = await consumer.receive()
        assert again.message.body == b"work"
        await consumer.ack([again])
    assert found[b"work"] == ""
    assert found[b"forged"]


async def test_what_is_released_stays_genuine(broker: Broker, queue: str) -> None:
    await broker.publish(queue, [Message(b"work", "", {"count": 1})])
    async with within():
        async with await broker.consume(queue, prefetch=1) as consumer:
            for settle in (consumer.release, consumer.nack):
                await settle(await consumer.receive())
        async with await broker.consume(queue, prefetch=1) as consumer:
            [delivery] = await consumer.receive()
            assert delivery.message.body == b"work"
            await consumer.ack([delivery])


async def test_events_without_the_seal_are_dropped(broker: Broker, bare: Broker) -> None:
    topics = ["topic-of-sealed", "another-of-sealed"]
    async with (
        within(),
        await broker.subscribe(topics) as events,
        await bare.subscribe(topics) as overheard,
    ):
        for each in (broker, bare):
            await each.publish("first.of.sealed", [Message(b"x")])  # now it is connected, and loses no event for that
        await broker.broadcast(topics[0], "first")
        heard = await overheard.get()
        assert heard is not None
        assert (await events.get()) is not None
        for topic, payload in ((topics[0], "forged"), (topics[0], ""), (topics[1], heard.payload)):
            await bare.broadcast(topic, payload)
        await broker.broadcast(topics[0], "last")
        event = await events.get()
        assert event is not None
        assert event.payload == "last"
