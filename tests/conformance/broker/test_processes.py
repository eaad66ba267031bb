"""Several processes: none loses a message, whatever ends one of them."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable

from dts.broker import Broker
from tests.conformance.broker.helpers import bodies, depth_becomes, messages, numbered, take
from tests.conformance.broker.peer import Peer
from tests.services.waiting import within

StartPeer = Callable[..., Awaitable[Peer]]


async def test_what_a_killed_process_had_comes_again_soon(
    url: str, broker: Broker, queue: str, start_peer: StartPeer
) -> None:
    await broker.publish(queue, numbered(3))
    peer = await start_peer(url, "hold", queue, "3")
    assert [await peer.line() for _ in range(3)] == ["m-0", "m-1", "m-2"]
    async with await broker.consume(queue, prefetch=3) as consumer:
        await peer.kill()

        deliveries = await take(consumer, 3)

        assert sorted(bodies(deliveries)) == ["m-0", "m-1", "m-2"]
        assert {delivery.count for delivery in deliveries} == {1}


async def test_a_message_that_kills_its_consumers_is_dead_after_its_limit(
    url: str, broker: Broker, queue: str, start_peer: StartPeer
) -> None:
    await broker.publish(queue, numbered(1))
    for _ in range(2):
        peer = await start_peer(url, "hold", queue, "1")
        assert await peer.line() == "m-0"
        await peer.kill()
    async with await broker.consume(queue, prefetch=1) as consumer:
        last = await take(consumer, 1)
        assert last[0].count == 2


async def test_many_processes_lose_nothing_and_double_nothing(
    url: str, broker: Broker, queue: str, start_peer: StartPeer
) -> None:
    workers = [await start_peer(url, "work", queue, "20") for _ in range(2)]
    publishers = [await start_peer(url, "publish", queue, name, "1000", "10") for name in ("a", "b")]
    done: Counter[str] = Counter()

    async def follow(worker: Peer) -> None:
        while done.total() < 2000:
            done[await worker.line()] += 1

    following = [asyncio.create_task(follow(worker)) for worker in workers]
    async with within():
        for publisher in publishers:
            assert await publisher.line() == "published"
        await asyncio.wait(following, return_when=asyncio.FIRST_COMPLETED)
    await depth_becomes(broker, queue, 0)
    for task in following:
        task.cancel()

    assert set(done) == {f"{name}-{number}" for name in "ab" for number in range(1000)}
    assert done.most_common(1)[0][1] == 1


async def test_workers_that_are_killed_at_work_lose_nothing(
    url: str, broker: Broker, queue: str, start_peer: StartPeer
) -> None:
    published: set[str] = set()
    seen: set[str] = set()
    for name in "ab":
        # For each worker, since the one before it may have done all there was before it was killed.
        names = [f"{name}-{number}" for number in range(150)]
        await broker.publish(queue, messages(*names))
        published.update(names)
        worker = await start_peer(url, "work", queue, "10")
        for _ in range(50):
            seen.add(await worker.line())
        worker_end = asyncio.create_task(worker.kill())
        seen.update(await worker.lines())
        await worker_end

    async with await broker.consume(queue, prefetch=50) as consumer, within():
        while not published <= seen:
            deliveries = await consumer.receive(50)
            seen.update(bodies(deliveries))
            await consumer.ack(deliveries)

    assert seen == published
