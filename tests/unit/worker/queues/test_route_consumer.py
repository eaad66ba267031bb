"""What takes deliveries of a route, while several things happen to it at once."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from dts.broker import Consumer, Delivery, Message
from dts.config import RouteSettings
from dts.worker.queues import route_consumer
from dts.worker.queues.route_consumer import RouteConsumer
from dts.worker.queues.settler import Settler
from tests.services.waiting import until


class FakeConsumer(Consumer):
    """A consumer of an empty queue, at a broker that takes a moment to answer."""

    def __init__(self) -> None:
        self.cancels = 0
        self.closed = False
        self._ended = asyncio.Event()

    async def receive(self, max_messages: int = 1) -> list[Delivery]:
        await self._ended.wait()
        return []

    async def ack(self, deliveries: Sequence[Delivery]) -> None:
        """Nothing to settle."""

    nack = release = ack

    async def reject(self, deliveries: Sequence[Delivery], reason: str) -> None:
        """Nothing to settle."""

    async def cancel(self) -> None:
        self.cancels += 1
        await asyncio.sleep(0.05)
        self._ended.set()

    async def close(self) -> None:
        self._ended.set()
        self.closed = True


class FakeRoutes:
    """Makes consumers, and knows them."""

    def __init__(self) -> None:
        self.made: list[FakeConsumer] = []

    async def consume(self, route: RouteSettings, prefetch: int) -> FakeConsumer:
        self.made.append(FakeConsumer())
        return self.made[-1]


class FakeDeliveries:
    """As many as a test says."""

    def __init__(self) -> None:
        self.held = 0

    def __len__(self) -> int:
        return 0

    def held_of(self, consumers: set[Consumer]) -> int:
        return self.held if consumers else 0

    def has_any_of(self, consumer: Consumer) -> bool:
        return bool(self.held)


class FakeTaker:
    """Has as many free slots, and holds as many deliveries, as a test says."""

    def __init__(self) -> None:
        self.room = asyncio.Event()
        self.free_slots = 10
        self.deliveries = FakeDeliveries()

    def take(self, consumer: Consumer, deliveries: list[Delivery]) -> None:
        raise AssertionError("there is nothing to take")


async def test_a_pause_and_the_tidying_may_dismiss_the_same_consumer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(route_consumer, "LOOK_EVERY", 0.01)
    routes, taker = FakeRoutes(), FakeTaker()
    async with RouteConsumer(routes, RouteSettings("default"), 2, taker) as fetching:  # type: ignore[arg-type]
        taker.deliveries.held = 2
        fetching.check_prefetch()
        await until(lambda: len(routes.made) == 2)
        taker.free_slots = taker.deliveries.held = 0  # short of memory: one consumer would do, and a pause comes
        await fetching.pause()
        await until(lambda: all(consumer.closed for consumer in routes.made))
        assert [consumer.cancels for consumer in routes.made] == [1, 1]
        assert not fetching.failed.is_set()
        taker.free_slots = 2
        await fetching.resume()
        assert len(routes.made) == 3, "it goes on"


async def test_a_consumer_is_at_the_settlers_until_its_broker_has_been_told() -> None:
    told = asyncio.Event()

    class SlowToHear(FakeConsumer):
        async def ack(self, deliveries: Sequence[Delivery]) -> None:
            await told.wait()

    first, second = SlowToHear(), FakeConsumer()
    async with Settler() as settler:
        assert not settler.has_any_of(first)
        settler.ack(first, Delivery(Message(b""), "q", 1))
        assert settler.has_any_of(first)
        await asyncio.sleep(0)
        settler.reject(second, Delivery(Message(b""), "q", 2), "no good")
        assert (settler.has_any_of(first), settler.has_any_of(second)) == (True, True)
        told.set()
        await settler.wait_idle()
        assert (settler.has_any_of(first), settler.has_any_of(second)) == (False, False)


async def test_a_consumer_that_comes_when_the_end_has_come_is_closed_at_once() -> None:
    routes = FakeRoutes()
    asked, given = asyncio.Event(), asyncio.Event()
    consume = routes.consume

    async def slowly(route: RouteSettings, prefetch: int) -> FakeConsumer:
        asked.set()
        await given.wait()
        return await consume(route, prefetch)

    routes.consume = slowly  # type: ignore[method-assign]
    fetching = RouteConsumer(routes, RouteSettings("default"), 2, FakeTaker(), paused=True)  # type: ignore[arg-type]
    async with fetching:
        assert not asked.is_set(), "one that is paused from the start asks for none"
        resuming = asyncio.create_task(fetching.resume())
        await asked.wait()
        await fetching.cease()
        given.set()
        await resuming
        assert [consumer.closed for consumer in routes.made] == [True]
