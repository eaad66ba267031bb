"""Small events: every subscriber of the topic hears them, in this process and in others."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from dts.broker import Broker, Event
from dts.broker.amqp import consumer as amqp_consumer
from dts.broker.sqlite import consumer as sqlite_consumer
from tests.conformance.broker.peer import Peer
from tests.services.waiting import within


async def test_every_subscriber_of_a_topic_gets_an_event(broker: Broker, other: Broker, queue: str) -> None:
    async with (
        await broker.subscribe([queue, f"{queue}.more"]) as near,
        await other.subscribe([queue]) as far,
        within(),
    ):
        await broker.ping()
        await broker.broadcast(f"{queue}.none", "not for us")
        await broker.broadcast(f"{queue}.more", "one")
        await broker.broadcast(queue, "two – zwei")

        assert await near.get() == Event(f"{queue}.more", "one")
        assert await near.get() == Event(queue, "two – zwei")
        assert await far.get() == Event(queue, "two – zwei")


async def test_an_event_of_several_kilobytes_arrives(broker: Broker, other: Broker, queue: str) -> None:
    payload = " ".join(f"run-{number:06}" for number in range(1000))
    async with await other.subscribe([queue]) as subscription, within():
        await broker.ping()
        await broker.broadcast(queue, payload)
        assert await subscription.get() == Event(queue, payload)


async def test_an_event_reaches_other_processes(
    url: str, broker: Broker, queue: str, start_peer: Callable[..., Awaitable[Peer]]
) -> None:
    peer = await start_peer(url, "listen", queue)
    assert await peer.line() == "listening"

    await broker.ping()
    await broker.broadcast(queue, "hello")

    assert await peer.line() == "hello"


async def test_an_event_comes_from_other_processes(
    url: str, broker: Broker, queue: str, start_peer: Callable[..., Awaitable[Peer]]
) -> None:
    async with await broker.subscribe([queue]) as subscription:
        await start_peer(url, "broadcast", queue, "hello")  # more than once: an event may get lost
        async with within():
            assert [await subscription.get() for _ in range(3)] == [Event(queue, "hello")] * 3


async def test_many_long_events_in_a_row_all_arrive(broker: Broker, other: Broker, queue: str) -> None:
    payloads = [f"{number} " + "x" * 3000 for number in range(150)]
    async with await other.subscribe([queue]) as subscription, within():
        await broker.ping()
        for payload in payloads:
            assert await broker.broadcast(queue, payload)
        assert [await subscription.get() for _ in payloads] == [Event(queue, payload) for payload in payloads]
        assert not subscription.missed.is_set()


async def test_a_subscription_tells_that_it_could_not_keep_all_events(
    broker: Broker, other: Broker, queue: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (amqp_consumer, sqlite_consumer):
        monkeypatch.setattr(module, "EVENTS_KEPT", 3)
    async with await other.subscribe([queue]) as subscription, within():
        await broker.ping()
        await subscription.listening()
        assert not subscription.missed.is_set()
        for number in range(4):
            await broker.broadcast(queue, f"{number}")
        await subscription.missed.wait()
        assert [await subscription.get() for _ in range(3)] == [Event(queue, f"{number}") for number in (1, 2, 3)]

        subscription.missed.clear()
        await broker.broadcast(queue, "4")
        assert await subscription.get() == Event(queue, "4")
        assert not subscription.missed.is_set()


async def test_a_closed_subscription_ends(broker: Broker, queue: str) -> None:
    subscription = await broker.subscribe([queue])
    waiting = asyncio.create_task(subscription.get())
    await asyncio.sleep(0)

    await subscription.close()
    await subscription.close()

    assert await waiting is None
    assert await subscription.get() is None
    await subscription.listening()


async def test_an_event_that_nobody_listens_to_is_no_error(broker: Broker, queue: str) -> None:
    await broker.broadcast(queue, "into the void")
