"""RabbitMQ that dies, freezes, runs out of memory, or closes what it should not: the broker gets over it by itself."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress

import pytest

from dts.broker import Broker, Event, Message, open_broker
from dts.broker.amqp import link as amqp_link
from dts.broker.amqp.broker import AmqpBroker
from dts.errors import BrokerUnavailable
from tests.conformance.broker.helpers import bodies, depth_becomes, messages, nothing_comes, numbered, take
from tests.services.base import free_port
from tests.services.rabbitmq import RabbitServer
from tests.services.waiting import PATIENCE, until, within


@pytest.fixture(scope="module")
def own() -> Iterator[RabbitServer]:
    """A RabbitMQ that these tests may mistreat."""
    with RabbitServer() as server:
        yield server


@pytest.fixture
async def broker(own: RabbitServer) -> AsyncIterator[Broker]:
    """A broker on it."""
    async with open_broker(own.url) as started:
        yield started


async def restart(server: RabbitServer) -> None:
    """SIGKILL, and start again on the same data."""
    await asyncio.to_thread(server.kill)
    await asyncio.to_thread(server.start)


async def test_a_sigkill_of_rabbitmq_loses_nothing_that_was_confirmed(
    own: RabbitServer, broker: Broker, queue: str
) -> None:
    confirmed: set[str] = set()
    worked: set[str] = set()
    stop = asyncio.Event()

    async def publish(name: str) -> None:
        number = 0
        while not stop.is_set():
            batch = [f"{name}-{number + step}" for step in range(10)]
            number += 10
            with suppress(BrokerUnavailable):  # a busy machine may take longer to restart it
                await broker.publish(queue, messages(*batch))
                confirmed.update(batch)

    async def work() -> None:
        async with await broker.consume(queue, prefetch=20) as consumer:
            while deliveries := await consumer.receive(20):
                worked.update(bodies(deliveries))
                await consumer.ack(deliveries)

    publishers = [asyncio.create_task(publish(name)) for name in "abcd"]
    workers = [asyncio.create_task(work()) for _ in range(3)]
    async with within():
        while len(worked) < 500:
            await asyncio.sleep(0.01)
        before = len(confirmed)
        await restart(own)
        while len(confirmed) < before + 500:
            await asyncio.sleep(0.01)
        stop.set()
        await asyncio.gather(*publishers)
        while not confirmed <= worked:
            await asyncio.sleep(0.01)
    for task in workers:
        task.cancel()
    await asyncio.gather(*workers, return_exceptions=True)


async def test_a_message_over_the_brokers_limit_is_named_as_the_reason(own: RabbitServer, queue: str) -> None:
    own.evaluate("application:set_env(rabbit, max_message_size, 100000).")  # for channels that are opened from here on
    try:
        async with open_broker(own.url) as broker:
            with pytest.raises(BrokerUnavailable, match=r"message size 200000 .* larger than .* 100000"):
                await broker.publish(queue, [Message(b"x" * 200_000)], timeout=5)
            await broker.publish(queue, messages("small"))
            await depth_becomes(broker, queue, 1)
    finally:
        own.evaluate("application:set_env(rabbit, max_message_size, 134217728).")


async def test_a_new_queue_survives_a_sigkill_right_after_its_first_confirm(
    own: RabbitServer, broker: Broker, queue: str
) -> None:
    queues = [f"{queue}.{number}" for number in range(3)]
    await broker.declare(queues)
    for name in queues:
        await broker.publish(name, messages("kept"))

    await restart(own)

    for name in queues:
        async with await broker.consume(name, prefetch=1) as consumer:
            assert bodies(await take(consumer, 1)) == ["kept"]


async def test_a_queue_that_another_has_just_made_is_not_used_before_it_is_safe(
    own: RabbitServer, broker: Broker, queue: str
) -> None:
    queues = [f"{queue}.{number}" for number in range(3)]
    async with open_broker(own.url) as other:
        await other.ping()
        began = time.monotonic()
        both = (broker, other)
        await asyncio.gather(*(each.publish(name, messages("kept")) for each in both for name in queues))
        assert time.monotonic() - began >= 1
        for each in (broker, other):
            assert each._queues.usable(queues), "it is over once for all"  # type: ignore[attr-defined]


async def test_a_queue_without_a_leader_is_told_of_once(
    own: RabbitServer, broker: Broker, queue: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(amqp_link, "LEADERLESS_SECONDS", 1.0)
    other = f"{queue}.other"
    await broker.declare([queue, other])
    leader = f'quorum_queues, {{binary_to_atom(<<"%2F_{queue}">>), node()}}'
    await asyncio.to_thread(own.evaluate, f"ok = ra:stop_server({leader}).")

    for _ in range(6):
        with pytest.raises(BrokerUnavailable):
            await broker.publish(queue, messages("never"), timeout=0.6)
        await broker.publish(other, messages("works"))

    told = [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]
    assert len(told) == 1
    assert f"rabbitmqctl delete_queue {queue})" in told[0]
    await asyncio.to_thread(own.evaluate, f"ok = ra:restart_server({leader}).")
    await broker.publish(queue, messages("again"), timeout=PATIENCE)


async def test_what_is_refused_is_published_again_on_another_channel(
    own: RabbitServer, broker: AmqpBroker, queue: str
) -> None:
    """RabbitMQ may refuse all that a channel brings for a queue whose leader it has not found again."""
    name = f'{{resource, <<"/">>, queue, <<"{queue}">>}}'
    full = '[{<<"x-max-length">>, long, 1}, {<<"x-overflow">>, longstr, <<"reject-publish">>}]'
    own.evaluate(f'{{new, _}} = rabbit_amqqueue:declare({name}, true, false, {full}, none, <<"tests">>).')
    await broker.publish(queue, messages("first"))
    old = broker._confirmed._channel
    publishing = asyncio.create_task(broker.publish(queue, messages("second"), timeout=PATIENCE))
    await until(lambda: broker._confirmed._channel not in (old, None), "another channel")
    assert old is not None
    assert old.lost.is_set(), "nothing waits on it"
    async with await broker.consume(queue, prefetch=1) as consumer:
        for word in ("first", "second"):
            deliveries = await take(consumer, 1)
            assert bodies(deliveries) == [word]
            await consumer.ack(deliveries)
    await publishing


async def test_consumers_and_subscriptions_resume_after_a_restart(
    own: RabbitServer, broker: Broker, queue: str
) -> None:
    await broker.publish(queue, numbered(2))
    async with (
        await broker.consume(queue, prefetch=1) as consumer,
        await broker.subscribe([queue]) as subscription,
    ):
        stale = await take(consumer, 1)

        assert not subscription.missed.is_set()

        await restart(own)

        assert subscription.missed.is_set()
        # A redelivered message may come after others.
        one = await take(consumer, 1)
        await consumer.ack(stale)
        await consumer.ack(one)
        assert sorted(bodies([*one, *await take(consumer, 1)])) == ["m-0", "m-1"]
        async with within():
            await subscription.listening()
            while not await broker.broadcast(queue, "still there?"):
                await asyncio.sleep(0.01)
            assert await subscription.get() == Event(queue, "still there?")


async def test_a_broker_may_start_before_its_service(queue: str) -> None:
    server = RabbitServer()
    try:
        async with open_broker(server.url) as broker:
            async with within():
                consumer = await broker.consume(queue, prefetch=1)
                subscription = await broker.subscribe([queue])
                assert subscription.missed.is_set()
                assert not await broker.broadcast(queue, "lost")
            with pytest.raises(BrokerUnavailable, match="no connection"):
                await broker.publish(queue, messages("too early"), timeout=0.3)
            with pytest.raises(BrokerUnavailable):
                await broker.ping()
            publishing = asyncio.create_task(broker.publish(queue, messages("patient"), timeout=PATIENCE))

            await asyncio.to_thread(server.start)

            await publishing
            assert bodies(await take(consumer, 1)) == ["patient"]
            await subscription.close()
    finally:
        await asyncio.to_thread(server.stop)


async def test_a_publish_to_a_blocked_broker_raises_by_its_deadline_and_works_afterwards(
    own: RabbitServer, broker: Broker, queue: str
) -> None:
    await broker.publish(queue, messages("before"))
    async with await broker.consume(queue, prefetch=10) as consumer:
        held = await take(consumer, 1)
        await asyncio.to_thread(own.set_alarm, True)
        try:
            for _ in range(3):
                with pytest.raises(BrokerUnavailable, match=r"blocks publishers|does not answer"):
                    await broker.publish(queue, [Message(b"x" * 3_000_000)], timeout=0.5)
            with pytest.raises(BrokerUnavailable, match="blocks publishers: low on memory"):
                await broker.publish(queue, messages("blocked"), timeout=0.2)
            # Consuming goes on meanwhile, and so does what an operator looks at.
            await consumer.ack(held)
            await depth_becomes(broker, queue, 0)
            await broker.ping()
            waiting = asyncio.create_task(broker.publish(queue, messages("patient"), timeout=PATIENCE))
        finally:
            await asyncio.to_thread(own.set_alarm, False)

        await waiting
        await broker.publish(queue, messages("after"), timeout=PATIENCE)
        arrived: list[str] = []
        while "after" not in arrived:
            deliveries = await take(consumer, 1)
            arrived += bodies(deliveries)
            await consumer.ack(deliveries)
        assert "patient" in arrived


async def test_a_frozen_broker_is_noticed_and_used_again_when_it_thaws(own: RabbitServer, queue: str) -> None:
    async with (
        open_broker(f"{own.url}?heartbeat=2") as broker,
        await broker.consume(queue, prefetch=1) as consumer,
    ):
        await broker.publish(queue, messages("before"))
        await consumer.ack(await take(consumer, 1))
        own.freeze()
        try:
            with pytest.raises(BrokerUnavailable):
                await broker.ping()
            # By its heartbeats, of two seconds here, it is taken for dead.
            async with within():
                while "no connection" not in await why_not_published(broker, queue):
                    pass
        finally:
            own.thaw()

        async with within():
            await broker.publish(queue, messages("thawed"), timeout=PATIENCE)
            arrived: list[str] = []
            while "thawed" not in arrived:
                deliveries = await take(consumer, 1)
                arrived += bodies(deliveries)
                await consumer.ack(deliveries)


async def why_not_published(broker: Broker, queue: str) -> str:
    """What a publish with a short deadline says when it fails."""
    with pytest.raises(BrokerUnavailable) as failed:
        await broker.publish(queue, messages("frozen"), timeout=0.3)
    return failed.value.message


async def test_a_consumer_whose_channel_the_broker_closes_resumes(
    own: RabbitServer, broker: Broker, queue: str
) -> None:
    # RabbitMQ closes the channel with 406 when a delivery is not settled in time; channels read this when they open.
    own.evaluate(
        "application:set_env(rabbit, consumer_timeout, 300), application:set_env(rabbit, channel_tick_interval, 200)."
    )
    try:
        await broker.publish(queue, messages("slow"))
        async with await broker.consume(queue, prefetch=1) as consumer:
            first = await take(consumer, 1)
            second = await take(consumer, 1)
            assert (bodies(second), second[0].count) == (["slow"], 1)
            await consumer.ack(first)
            await consumer.ack(second)
            await depth_becomes(broker, queue, 0)
            assert await nothing_comes(consumer)
    finally:
        own.evaluate(
            "application:set_env(rabbit, consumer_timeout, 1800000), "
            "application:set_env(rabbit, channel_tick_interval, 60000)."
        )


async def test_a_queue_that_was_deleted_is_made_again(own: RabbitServer, broker: Broker, queue: str) -> None:
    await broker.publish(queue, messages("gone with the queue"))
    await asyncio.to_thread(own.control, "delete_queue", queue)

    await broker.publish(queue, numbered(10))

    async with await broker.consume(queue, prefetch=10) as consumer:
        assert bodies(await take(consumer, 10)) == [f"m-{number}" for number in range(10)]

        await asyncio.to_thread(own.control, "delete_queue", queue)

        await broker.publish(queue, messages("after"), timeout=PATIENCE)
        assert bodies(await take(consumer, 1)) == ["after"]


async def test_a_queue_with_other_arguments_is_used_as_it_is(own: RabbitServer, queue: str) -> None:
    for limit in (3, 5):
        async with open_broker(f"{own.url}?delivery_limit={limit}") as broker:
            await broker.publish(queue, messages("fits"))
    async with open_broker(own.url) as broker, await broker.consume(queue, prefetch=2) as consumer:
        assert len(await take(consumer, 2)) == 2


async def test_user_password_and_vhost_may_have_any_characters(own: RabbitServer, queue: str) -> None:
    own.add_vhost("a/b c")
    own.add_user("us@er", "p:a/s%s")
    own.permit("us@er", "a/b c")

    async with open_broker(f"amqp://us%40er:p%3Aa%2Fs%25s@127.0.0.1:{own.port}/a%2Fb%20c") as broker:
        await broker.publish(queue, messages("in"))
        await depth_becomes(broker, queue, 1)
    async with open_broker(own.url) as broker:
        assert (await broker.depth(queue)).ready == 0


@pytest.mark.parametrize("address", ["wrong:secret@127.0.0.1:{port}/", "127.0.0.1:{port}/no-such-vhost"])
async def test_a_broker_that_is_refused_says_so_and_does_not_hang(own: RabbitServer, address: str, queue: str) -> None:
    async with within(), open_broker("amqp://" + address.format(port=own.port)) as broker:
        with pytest.raises(BrokerUnavailable, match="no connection"):
            await broker.publish(queue, messages("refused"), timeout=1)


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("guest:wrong@127.0.0.1:{port}/", "ACCESS_REFUSED"),
        ("guest:guest@127.0.0.1:{port}/nowhere", "vhost nowhere not found"),
        ("guest:guest@127.0.0.1:1/", "connection refused: nobody listens there"),
        ("guest:guest@no.such.host.invalid:5672/", "there is no host of that name"),
    ],
)
async def test_a_ping_says_in_words_why_there_is_no_connection(own: RabbitServer, address: str, words: str) -> None:
    async with open_broker("amqp://" + address.format(port=own.port)) as broker:
        with pytest.raises(BrokerUnavailable, match=words) as caught:
            await broker.ping()
    assert "wrong" not in str(caught.value), "no password"


async def test_something_that_is_no_rabbitmq_is_not_waited_for(queue: str) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.0 400 Bad Request\r\n\r\n")
        await writer.drain()
        writer.close()

    port = free_port()
    async with (
        await asyncio.start_server(answer, "127.0.0.1", port),
        open_broker(f"amqp://127.0.0.1:{port}/") as broker,
        within(),
    ):
        with pytest.raises(BrokerUnavailable, match="no connection"):
            await broker.publish(queue, messages("lost"), timeout=0.5)
