"""A RabbitMQ of several nodes: a client that knows them all goes on with another when one is lost."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from contextlib import ExitStack, suppress

import pytest

from dts.broker import Event, open_broker
from dts.broker.amqp import link as amqp_link
from dts.broker.amqp.broker import AmqpBroker
from dts.errors import BrokerUnavailable
from tests.conformance.broker.helpers import bodies, messages
from tests.services.base import free_port
from tests.services.rabbitmq import RabbitServer, available
from tests.services.waiting import until, within


@pytest.fixture(scope="module")
def cluster() -> Iterator[list[RabbitServer]]:
    """Three nodes, which have a quorum when one is lost."""
    if not available():
        pytest.skip("no rabbitmq-server on this machine")
    with ExitStack() as stack:
        first = stack.enter_context(RabbitServer())
        others = [RabbitServer(first) for _ in range(2)]
        for each in others:
            stack.callback(each.stop)
            each.spawn()
        for each in others:
            each.wait_ready()
        yield [first, *others]


def url_of(*servers: RabbitServer) -> str:
    """The URL that names several nodes."""
    return f"amqp://guest:guest@{','.join(f'127.0.0.1:{each.port}' for each in servers)}/"


def connected_to(broker: AmqpBroker) -> set[int]:
    """The ports of the nodes that a broker is connected to."""
    connections = (broker._outward.current, broker._inward.current)
    found = (one._stream_writer.transport for one in connections if one is not None and one._stream_writer is not None)
    return {transport.get_extra_info("peername")[1] for transport in found}


async def test_a_node_that_is_not_there_is_passed_over_at_once(cluster: list[RabbitServer], queue: str) -> None:
    for _ in range(4):  # it begins with any of them
        async with open_broker(f"amqp://127.0.0.1:{free_port()},127.0.0.1:{cluster[0].port}") as broker:
            await broker.ping()


async def test_a_frozen_node_is_passed_over(
    cluster: list[RabbitServer], queue: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(amqp_link, "NODE_TIMEOUT", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as silent:  # the kernel connects, and nobody answers
        port = silent.getsockname()[1]
        for _ in range(4):
            async with (
                open_broker(f"amqp://127.0.0.1:{port},127.0.0.1:{cluster[0].port}") as broker,
                await broker.subscribe([queue]) as subscription,
                within(),
            ):
                await subscription.listening()


async def test_the_loss_of_a_node_loses_no_message_and_no_event_for_good(
    cluster: list[RabbitServer], queue: str
) -> None:
    published: set[str] = set()
    taken: set[str] = set()
    stop = asyncio.Event()

    async def publish(broker: AmqpBroker) -> None:
        number = 0
        while not stop.is_set():
            batch = [f"m-{number + step}" for step in range(10)]
            number += 10
            with suppress(BrokerUnavailable):  # then they may be there or not
                await broker.publish(queue, messages(*batch))
                published.update(batch)

    async def work(broker: AmqpBroker) -> None:
        async with await broker.consume(queue, prefetch=20) as consumer:
            while deliveries := await consumer.receive(20):
                taken.update(bodies(deliveries))
                await consumer.ack(deliveries)

    async def more(count: int) -> None:
        before = len(taken)
        await until(lambda: len(taken) >= before + count, "messages to go through")

    async with (
        AmqpBroker(url_of(*cluster)) as broker,
        await broker.subscribe([queue]) as subscription,
    ):
        await broker.declare([queue])
        tasks = [asyncio.create_task(publish(broker)), asyncio.create_task(work(broker))]
        await more(100)
        ports = await until(lambda: connected_to(broker), "a connection")
        lost = next(each for each in cluster if each.port in ports)
        await asyncio.to_thread(lost.kill)
        await more(100)
        assert lost.port not in connected_to(broker)
        await subscription.listening()
        hears = asyncio.create_task(subscription.get())
        while not hears.done():  # an event may be lost while the other end is connecting
            await broker.broadcast(queue, "after")
            await asyncio.wait([hears], timeout=1)
        assert hears.result() == Event(queue, "after")
        stop.set()
        await tasks[0]
        await until(lambda: published <= taken, "every message that was confirmed")
        tasks[1].cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
