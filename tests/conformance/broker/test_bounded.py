"""Queues that must not grow when nobody consumes them."""

from __future__ import annotations

from dts.broker import Broker
from dts.wire.queues import BOUNDED, HEARTBEATS
from tests.conformance.broker.helpers import bodies, depth_becomes, numbered, take


async def test_a_bounded_queue_drops_the_oldest(broker: Broker) -> None:
    most = BOUNDED[HEARTBEATS]
    for start in ("a", "b"):
        await broker.publish(HEARTBEATS, numbered(most // 2 + 10, start))
    await depth_becomes(broker, HEARTBEATS, most)
    async with await broker.consume(HEARTBEATS, prefetch=most + 100) as consumer:
        taken = await take(consumer, most)
        await consumer.ack(taken)
    assert bodies(taken)[0] == "a-20"
    assert bodies(taken)[-1] == f"b-{most // 2 + 9}"
    await depth_becomes(broker, HEARTBEATS, 0)
