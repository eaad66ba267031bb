"""Consuming: each message goes to one consumer at a time, until somebody settles it."""

from __future__ import annotations

import asyncio

from dts.broker import Broker, origin, revived
from dts.wire.queues import DEAD
from tests.conformance.broker.helpers import (
    bodies,
    dead_letters,
    depth_becomes,
    messages,
    nothing_comes,
    numbered,
    take,
)
from tests.services.waiting import within


async def test_a_consumer_holds_no_more_than_its_prefetch(broker: Broker, queue: str) -> None:
    await broker.publish(queue, numbered(10))
    async with await broker.consume(queue, prefetch=4) as consumer:
        held = await take(consumer, 4)
        assert await nothing_comes(consumer)

        await consumer.ack(held[:1])

        assert bodies(await take(consumer, 1)) == ["m-4"]
        assert await nothing_comes(consumer)


async def test_receive_gives_what_is_there_up_to_its_limit(broker: Broker, queue: str) -> None:
    await broker.publish(queue, numbered(5))
    async with await broker.consume(queue, prefetch=5) as consumer:
        await depth_becomes(broker, queue, 0)
        assert len(await consumer.receive(2)) <= 2
        assert len(await consumer.receive()) == 1


async def test_a_waiting_consumer_gets_what_is_published_then(broker: Broker, other: Broker, queue: str) -> None:
    async with await broker.consume(queue, prefetch=1) as consumer:
        waiting = asyncio.create_task(take(consumer, 1))
        await other.publish(queue, messages("now"))
        assert bodies(await waiting) == ["now"]


async def test_an_acked_message_is_gone(broker: Broker, queue: str) -> None:
    await broker.publish(queue, numbered(3))
    async with await broker.consume(queue, prefetch=3) as consumer:
        await consumer.ack(await take(consumer, 3))

    async with await broker.consume(queue, prefetch=3) as consumer:
        assert await nothing_comes(consumer)


async def test_acks_out_of_order_settle_just_what_they_name(broker: Broker, queue: str) -> None:
    await broker.publish(queue, numbered(6))
    async with await broker.consume(queue, prefetch=6) as consumer:
        held = await take(consumer, 6)
        await consumer.ack([held[4], held[2]])
        await consumer.ack([held[0], held[5]])

    async with await broker.consume(queue, prefetch=6) as consumer:
        assert sorted(bodies(await take(consumer, 2))) == ["m-1", "m-3"]
        assert await nothing_comes(consumer)


async def test_a_nacked_message_comes_again_at_once(broker: Broker, queue: str) -> None:
    await broker.publish(queue, messages("again"))
    async with await broker.consume(queue, prefetch=1) as consumer:
        first = await take(consumer, 1)
        assert not first[0].redelivered
        await consumer.nack(first)

        second = await take(consumer, 1)
        assert bodies(second) == ["again"]
        assert (second[0].redelivered, second[0].count) == (True, 1)


async def test_a_released_message_comes_again_and_was_never_handed_out(broker: Broker, queue: str) -> None:
    await broker.publish(queue, messages("untouched"))
    async with await broker.consume(queue, prefetch=1) as consumer:
        for _ in range(5):  # the limit is three
            released = await take(consumer, 1)
            assert (bodies(released), released[0].count) == (["untouched"], 0)
            await consumer.release(released)
            await consumer.release(released)
        last = await take(consumer, 1)
        await consumer.ack(last)
    await depth_becomes(broker, queue, 0)


async def test_what_a_cancelled_consumer_had_not_received_was_never_handed_out(broker: Broker, queue: str) -> None:
    await broker.publish(queue, numbered(6))
    for _ in range(4):
        async with await broker.consume(queue, prefetch=6) as consumer:
            await depth_becomes(broker, queue, 0)
            await consumer.cancel()
    async with await broker.consume(queue, prefetch=6) as consumer:
        deliveries = await take(consumer, 6)
        assert {delivery.count for delivery in deliveries} == {0}
        assert sorted(bodies(deliveries)) == [f"m-{number}" for number in range(6)]


async def test_a_cancelled_consumer_gives_back_what_was_not_received_and_settles_the_rest(
    broker: Broker, other: Broker, queue: str
) -> None:
    await broker.publish(queue, numbered(6))
    async with await broker.consume(queue, prefetch=4) as consumer:
        held = await take(consumer, 2)
        await depth_becomes(broker, queue, 2)
        await consumer.cancel()
        await consumer.cancel()
        assert await consumer.receive() == []
        async with await other.consume(queue, prefetch=10) as second:
            assert sorted(bodies(await take(second, 4))) == [f"m-{number}" for number in range(2, 6)]
            assert await nothing_comes(second), "what was received is its receiver's still"
            await consumer.ack(held[:1])
            await consumer.nack(held[1:])
            assert bodies(await take(second, 1)) == ["m-1"]
    await depth_becomes(broker, queue, 5)


async def test_a_receive_that_waits_ends_when_its_consumer_is_cancelled(broker: Broker, queue: str) -> None:
    async with await broker.consume(queue, prefetch=4) as consumer:
        waiting = asyncio.create_task(consumer.receive())
        await broker.publish(queue, messages("first"))
        assert bodies(await waiting) == ["first"]
        waiting = asyncio.create_task(consumer.receive())
        await consumer.cancel()
        assert await waiting == []
        await broker.publish(queue, messages("later"))
        await depth_becomes(broker, queue, 1)


async def test_a_closed_consumer_gives_back_at_once_what_it_had(broker: Broker, queue: str) -> None:
    await broker.publish(queue, numbered(6))
    first = await broker.consume(queue, prefetch=5)
    await take(first, 2)

    await first.close()
    await first.close()

    async with await broker.consume(queue, prefetch=6) as second:
        assert sorted(bodies(await take(second, 6))) == [f"m-{number}" for number in range(6)]


async def test_a_closed_broker_gives_back_what_its_consumers_had(broker: Broker, other: Broker, queue: str) -> None:
    await broker.publish(queue, numbered(3))
    held = await take(await other.consume(queue, prefetch=3), 3)

    await other.close()

    async with await broker.consume(queue, prefetch=3) as consumer:
        assert bodies(await take(consumer, 3)) == bodies(held)


async def test_receive_ends_when_the_consumer_is_closed(broker: Broker, queue: str) -> None:
    consumer = await broker.consume(queue, prefetch=1)
    waiting = asyncio.create_task(consumer.receive())
    await asyncio.sleep(0)

    await consumer.close()

    assert await waiting == []
    assert await consumer.receive() == []


async def test_a_cancelled_receive_loses_nothing(broker: Broker, queue: str) -> None:
    async with await broker.consume(queue, prefetch=100) as consumer:
        publishing = asyncio.create_task(broker.publish(queue, numbered(100)))
        arrived: list[str] = []
        async with within():
            while len(arrived) < 100:
                try:
                    arrived += bodies(await asyncio.wait_for(consumer.receive(3), 0.0005))
                except TimeoutError:
                    continue
        await publishing
    assert arrived == [f"m-{number}" for number in range(100)]


async def test_settling_twice_does_nothing_more(broker: Broker, queue: str) -> None:
    await broker.publish(queue, numbered(3))
    async with await broker.consume(queue, prefetch=1) as consumer:
        first = await take(consumer, 1)
        await consumer.ack(first)
        await consumer.ack(first)
        await consumer.nack(first)
        await consumer.reject(first, "too late")

        second = await take(consumer, 1)
        await consumer.ack([*second, *second])

        assert bodies(await take(consumer, 1)) == ["m-2"]


async def test_a_stale_delivery_is_passed_over(broker: Broker, queue: str) -> None:
    await broker.publish(queue, messages("mine"))
    first = await broker.consume(queue, prefetch=1)
    stale = await take(first, 1)
    await first.close()
    async with await broker.consume(queue, prefetch=1) as second:
        held = await take(second, 1)

        await first.ack(stale)
        await first.reject(stale, "not mine any more")
        await second.ack(stale)
        await second.nack(held)

        assert bodies(await take(second, 1)) == ["mine"]


async def test_consumers_of_a_queue_share_its_messages(broker: Broker, other: Broker, queue: str) -> None:
    async with (
        await broker.consume(queue, prefetch=5) as first,
        await other.consume(queue, prefetch=5) as second,
    ):
        await broker.publish(queue, numbered(10))
        shared = [*await take(first, 5), *await take(second, 5)]
    assert sorted(bodies(shared)) == sorted(f"m-{number}" for number in range(10))


async def test_a_message_that_nobody_acks_is_dead_after_its_limit(broker: Broker, queue: str) -> None:
    await broker.publish(queue, messages("poison"))
    async with await broker.consume(queue, prefetch=1) as consumer:
        for count in range(3):
            deliveries = await take(consumer, 1)
            assert deliveries[0].count == count
            await consumer.nack(deliveries)

        (dead,) = await dead_letters(broker, queue, 1)
        assert await nothing_comes(consumer)

    assert dead.message.body == b"poison"
    came = origin(dead.message)
    assert came is not None
    assert (came.queue, came.reason) == (queue, "delivery_limit")


async def test_a_rejected_message_is_dead_with_its_reason(broker: Broker, queue: str) -> None:
    await broker.publish(queue, messages("good", "bad"))
    async with await broker.consume(queue, prefetch=2) as consumer:
        good, bad = await take(consumer, 2)
        assert origin(bad.message) is None
        await consumer.reject([bad], "does not decode")
        await consumer.ack([good])

    (dead,) = await dead_letters(broker, queue, 1)
    assert dead.message.body == b"bad"
    came = origin(dead.message)
    assert came is not None
    assert (came.queue, came.reason) == (queue, "does not decode")
    await depth_becomes(broker, queue, 0)


async def test_a_dead_letter_can_be_published_again_as_it_was(broker: Broker, queue: str) -> None:
    await broker.publish(queue, messages("revived"))
    async with await broker.consume(queue, prefetch=1) as consumer:
        sent = await take(consumer, 1)
        await consumer.reject(sent, "by mistake")
        (dead,) = await dead_letters(broker, queue, 1)

        await broker.publish(queue, [revived(dead.message)])

        again = await take(consumer, 1)
        assert again[0].message == sent[0].message
        assert again[0].count == 0


async def test_a_dead_letter_has_no_limit_and_stays_one_when_it_is_rejected(broker: Broker, queue: str) -> None:
    await broker.publish(queue, messages("stays"))
    async with await broker.consume(queue, prefetch=1) as consumer:
        await consumer.reject(await take(consumer, 1), "first reason")
    async with await broker.consume(DEAD, prefetch=1) as graveyard:
        for _ in range(5):
            dead = await take(graveyard, 1)
            await graveyard.nack(dead)
        await graveyard.reject(await take(graveyard, 1), "second reason")

    (dead_again,) = await dead_letters(broker, queue, 1)
    came = origin(dead_again.message)
    assert came is not None
    assert (came.queue, came.reason) == (queue, "second reason")


async def test_the_depth_tells_what_waits_and_where_it_can_what_consumers_hold(
    broker: Broker, other: Broker, queue: str
) -> None:
    await broker.publish(queue, messages("a", "b", "c"))
    async with await other.consume(queue, prefetch=2) as consumer:
        deliveries = await take(consumer, 2)
        await depth_becomes(broker, queue, 1)
        assert (await broker.depth(queue)).held in (2, None)
        await consumer.ack(deliveries[:1])
        await take(consumer, 1)
        await depth_becomes(broker, queue, 0)
        assert (await broker.depth(queue)).held in (2, None)
