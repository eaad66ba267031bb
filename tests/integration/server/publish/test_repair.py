"""Messages that a broker loses, with three timekeepers on each set of back ends: their jobs come again, once."""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import replace

import pytest

from dts.broker import open_broker
from dts.config import ServerSettings, Settings, load_settings
from dts.model import Block, Candidate, DelayedSlice, Function, Lease, WorkerState, job_id
from dts.server.daemons import Porter, Timekeeper
from dts.server.lookup.catalogue import Catalogue
from dts.server.publish import repair
from dts.server.publish.repair import Again, Repair, Requeued
from dts.store import open_store
from dts.wire import queues
from tests.integration.server.handlers.test_waiting import Desk, success
from tests.services.waiting import within

AFTER = 1.0


@pytest.fixture
def settings() -> Settings:
    daemons = {"relay_interval": 0.05, "repair_after": AFTER}
    return load_settings(None, environment={}, flags={"daemons": daemons, "server": {"max_slice": 4}})


@pytest.fixture
async def desk(urls: tuple[str, str], settings: Settings) -> AsyncIterator[Desk]:
    """Back ends with three timekeepers and a porter."""
    route = f"t{uuid.uuid4().hex[:10]}"
    async with AsyncExitStack() as stack:
        store = await stack.enter_async_context(open_store(urls[0]))
        broker = await stack.enter_async_context(open_broker(urls[1]))
        await store.add_function(Function(f"text/{route}", route=route))
        for kind in (Timekeeper, Timekeeper, Timekeeper, Porter):
            own = await stack.enter_async_context(open_store(urls[0]))
            await stack.enter_async_context(kind(own, broker, settings))
        jobs = await stack.enter_async_context(await broker.consume(queues.jobs_queue(route), prefetch=100))
        yield Desk(store, broker, jobs, route)


async def lose(desk: Desk, block: Block) -> None:
    """Take every message of a block and have nobody know."""
    await desk.take(block.count)


async def test_lost_jobs_come_again_once_and_only_those_that_are_lost(
    desk: Desk, caplog: pytest.LogCaptureFixture
) -> None:
    block = await desk.add(10)
    batches = await desk.take(10)
    for batch in batches:
        await desk.say(batch, results=[success(job) for job in batch.jobs if job.index < 3])
    await desk.outcome(block, lambda outcome: outcome.succeeded == 3)
    later = DelayedSlice(f"{block.id}.x", block.id, block.run, "ann", block.function, time.time() + 60, 1 << 3, 2)
    await desk.store.add_delayed([later])
    await desk.store.take_leases([Lease(block.id, 4, block.run, "w", fence=1, attempt=1, expires=time.time() + 60)])
    with caplog.at_level(logging.WARNING, "dts.server.publish.repair"):
        again = await desk.take(5)
        await desk.nothing_more(AFTER * 0.6)
    assert sorted(job.index for batch in again for job in batch.jobs) == [5, 6, 7, 8, 9]
    assert {job.attempt for batch in again for job in batch.jobs} == {1}
    assert f"run {block.run}: 5 jobs are published again" in caplog.text


async def test_a_job_comes_again_later_each_time(desk: Desk) -> None:
    block = await desk.add(1)
    times = [time.monotonic()]
    for _ in range(3):
        await lose(desk, block)
        times.append(time.monotonic())
    assert times[3] - times[2] > AFTER * 0.8


async def test_what_a_live_worker_is_at_is_not_lost_and_what_a_dead_one_was_at_is(desk: Desk) -> None:
    block = await desk.add(2)
    await lose(desk, block)
    await desk.store.record([Candidate(block.id, running=0b11)])
    beat = WorkerState("w", "host", time.time(), jobs_running=1, running=({"job": job_id(block.run, 1)},))
    gone = WorkerState("gone", "host", time.time() - 3600, jobs_running=1, running=({"job": job_id(block.run, 0)},))
    await desk.store.save_heartbeats([beat, gone])
    # On RabbitMQ somebody is at work in the route, and may hold more: it takes ten times as long.
    [batch] = await desk.take(1)
    assert [job.index for job in batch.jobs] == [0]


async def test_while_no_worker_is_heard_of_what_was_at_work_is_not_lost(desk: Desk) -> None:
    block = await desk.add(2)
    await lose(desk, block)
    await desk.store.record([Candidate(block.id, running=0b01)])
    gone = WorkerState("gone", "host", time.time() - 3600, jobs_running=1, running=({"job": job_id(block.run, 0)},))
    await desk.store.save_heartbeats([gone])
    assert await Again(desk.store, desk.broker, Catalogue(desk.store), ServerSettings()).requeue_run(
        block.run
    ) == Requeued(jobs=1, blocks=1)
    assert [job.index for batch in await desk.take(1) for job in batch.jobs] == [1]


async def test_a_job_that_was_queued_under_a_fence_comes_again_under_it(desk: Desk) -> None:
    block = await desk.add(2)
    await lose(desk, block)
    held = Lease(block.id, 1, block.run, "w", fence=3, attempt=4, expires=time.time() + 60)
    await desk.store.take_leases([held])
    assert await desk.store.pass_lease(held)
    jobs = {job.index: job for batch in await desk.take(2) for job in batch.jobs}
    assert (jobs[0].attempt, jobs[0].fence) == (1, 0)
    assert (jobs[1].attempt, jobs[1].fence) == (4, 4)


async def test_while_messages_or_results_wait_nothing_is_taken_for_lost(
    urls: tuple[str, str], settings: Settings
) -> None:
    route = f"t{uuid.uuid4().hex[:10]}"
    async with open_store(urls[0]) as store, open_broker(urls[1]) as broker:
        await store.add_function(Function(f"text/{route}", route=route))
        async with (
            Timekeeper(store, broker, settings),
            await broker.consume(queues.jobs_queue(route), prefetch=1) as consumer,
        ):
            await Desk(store, broker, consumer, route).add(12)  # three messages, the last of which nobody takes
            (first,) = await consumer.receive()
            await consumer.ack([first])
            await consumer.receive()
            await asyncio.sleep(3 * AFTER)
            assert (await broker.depth(queues.jobs_queue(route))).ready == 1


async def test_a_run_is_requeued_by_hand_at_once(desk: Desk, settings: Settings) -> None:
    block = await desk.add(9)
    batches = await desk.take(9)
    await desk.say(batches[0], results=[success(job) for job in batches[0].jobs])
    await desk.outcome(block, lambda outcome: outcome.succeeded == 4)
    again = Again(desk.store, desk.broker, Catalogue(desk.store), settings.server)
    assert await again.requeue_run(block.run) == Requeued(jobs=5, blocks=1)
    found = [job.index for batch in await desk.take(5) for job in batch.jobs]
    assert sorted(found) == [4, 5, 6, 7, 8]
    assert await again.requeue_run("unknown") == Requeued(jobs=0, blocks=0)
    waits = replace(await desk.add(1, not_before=time.time() + 60))
    assert await again.requeue_run(waits.run) == Requeued(jobs=0, blocks=0)


async def test_a_look_at_very_many_blocks_goes_on_where_the_last_one_stopped(
    urls: tuple[str, str], settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(repair, "_PAGE", 2)
    monkeypatch.setattr(repair, "_MOST", 2)
    route = f"t{uuid.uuid4().hex[:10]}"
    functions, blocks = [f"text/{route}{letter}" for letter in "ab"], dict[str, str]()
    async with open_store(urls[0]) as store, open_broker(urls[1]) as broker:
        for function in functions:
            await store.add_function(Function(function, route=route))
        looks = Repair(Again(store, broker, Catalogue(store), settings.server), after=0.06)
        async with await broker.consume(queues.jobs_queue(route), prefetch=100) as consumer:
            desk = Desk(store, broker, consumer, route)
            for function in functions * 3:
                block = await desk.add(1, function=function)
                await store.mark_published([block.id])  # and no broker ever had it
                blocks[block.id] = function
            seen, at_once = set[str](), list[int]()
            async with within():
                while len(seen) < len(blocks):
                    found = await looks.look()
                    at_once.append(found)
                    seen |= {batch.block for batch in (await desk.take(found) if found else ())}
                    await asyncio.sleep(looks.interval)
    assert seen == set(blocks)
    assert max(at_once) <= 3, "a full page, and what was left of the function before it"
