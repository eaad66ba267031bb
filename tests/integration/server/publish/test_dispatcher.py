"""What waits in the store goes out as workers take it, in turns, from one process of all."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from dts.broker import Broker, Consumer, Delivery, open_broker
from dts.config import ServerSettings
from dts.model import Block, Function, Limits, Namespace, Route, Run, RunState, Turns, User, new_id
from dts.server.intake.ingest import Arguments, batch_from_arguments, new_block
from dts.server.lookup.catalogue import Catalogue
from dts.server.publish import dispatcher as module
from dts.server.publish.dispatcher import Dispatcher
from dts.server.publish.repair import Again, Requeued
from dts.store import Store, open_store
from dts.wire import codec, dts_pb2, queues
from tests.services.waiting import within

SECONDS = 0.05
"""That a job takes: the queue of a route of which no worker is known is kept at 20 of them."""

Job = tuple[str, int]


@dataclass
class Site:
    """Back ends, and hands that take messages of a route."""

    urls: tuple[str, str]
    store: Store
    broker: Broker
    jobs: Consumer
    route: str
    stack: AsyncExitStack
    taken: list[Job] = field(default_factory=list)

    @property
    def queue(self) -> str:
        return queues.jobs_queue(self.route)

    async def accept(
        self, user: str, count: int, *, function: str = "text", blocks: int = 1, priority: int | None = None
    ) -> Run:
        """Store blocks as a server does that leaves them to the dispatcher."""
        name = f"{function}/{self.route}"
        run = Run(new_id(), user, name, 2048, created=time.time(), priority=priority)
        batch = batch_from_arguments([Arguments(b"[1]", b"")] * count)
        await self.store.add_run(run)
        await self.store.add_blocks([new_block(run, number, name, batch) for number in range(blocks)])
        return run

    async def dispatcher(self) -> Dispatcher:
        """Another process that may publish."""
        store = await self.stack.enter_async_context(open_store(self.urls[0]))
        own = Dispatcher(store, self.broker, Catalogue(store), ServerSettings(), interval=0.05)
        return await self.stack.enter_async_context(own)

    async def take(self, count: int) -> list[Job]:
        """The next jobs that come, by run and number, so many at least; each message takes a while."""
        found: list[Job] = []
        async with within():
            while len(found) < count:
                deliveries = await self.jobs.receive(1)
                found += [job for each in deliveries for job in _jobs(each)]
                await self.jobs.ack(deliveries)
                await asyncio.sleep(0.002)
        self.taken += found
        return found

    async def sent(self, run: Run) -> int:
        """How many jobs of a run have gone out."""
        return 4 * 150 - sum(row.jobs for row in await self.store.backlog() if row.run == run.id)

    async def empty(self) -> None:
        """Wait until nothing waits in the store."""
        async with within():
            while await self.store.backlog():
                await asyncio.sleep(0.02)


def _jobs(delivery: Delivery) -> list[Job]:
    message = delivery.message
    batch = codec.decode(dts_pb2.JobBatch, message.body, message.content_encoding)
    number = int(batch.block.rpartition("-")[2])
    return [(batch.run, number * 2048 + job.index) for job in batch.jobs]


@pytest.fixture
async def site(urls: tuple[str, str]) -> AsyncIterator[Site]:
    route = f"t{uuid.uuid4().hex[:10]}"
    async with AsyncExitStack() as stack:
        store = await stack.enter_async_context(open_store(urls[0]))
        broker = await stack.enter_async_context(open_broker(urls[1]))
        for namespace in ("text", "math"):
            await store.add_function(Function(f"{namespace}/{route}", route=route, mean_duration=SECONDS))
        jobs = await stack.enter_async_context(await broker.consume(queues.jobs_queue(route), prefetch=1))
        yield Site(urls, store, broker, jobs, route, stack)


async def test_a_long_file_keeps_nobody_waiting(site: Site) -> None:
    long = await site.accept("ann", 300, blocks=5)
    await site.dispatcher()
    await site.take(100)
    short = await site.accept("bob", 1)
    later: list[Job] = []
    while (short.id, 0) not in later:
        later += await site.take(1)
    assert len(later) < 700, "it waits for what was in the queue already, and not for the 1400 that are in the store"
    assert {run for run, _ in site.taken} == {long.id, short.id}


async def test_users_get_the_same_and_so_do_namespaces(site: Site) -> None:
    runs = {
        "ann": await site.accept("ann", 400, blocks=2),
        "bob": await site.accept("bob", 100, blocks=8),
        "other": await site.accept("bob", 800, function="math"),
    }
    await site.dispatcher()
    await site.take(800)
    counts = Counter(run for run, _ in site.taken)
    shares = {name: counts[run.id] / len(site.taken) for name, run in runs.items()}
    assert 0.45 < shares["other"] < 0.55, shares
    assert 0.20 < shares["ann"] < 0.30, shares


async def test_the_highest_priority_goes_first_also_when_it_is_changed(site: Site) -> None:
    usual = await site.accept("ann", 600)
    low, urgent = await site.accept("ann", 300, priority=2), await site.accept("bob", 100, priority=9)
    await site.dispatcher()
    assert Counter(run for run, _ in await site.take(100))[urgent.id] > 80, "what waits for long gets a little"
    await site.store.update_run(low.id, turns=Turns(8, 1.0))
    rest = [run for run, _ in await site.take(900)]
    after = rest[len(rest) - rest[::-1].index(low.id) :]
    assert after.count(usual.id) > 100, "it went before the rest of the usual ones, but for those in the queue"


async def test_no_job_has_a_higher_priority_than_its_user_may_have(site: Site) -> None:
    await site.store.add_user(User("ann", b"", limits=Limits(priority=3)))
    held, usual = await site.accept("ann", 40, priority=9), await site.accept("bob", 40)
    await site.dispatcher()
    taken = [run for run, _ in await site.take(80)]
    assert taken[:30] == [usual.id] * 30
    assert Counter(taken) == {usual.id: 40, held.id: 40}


async def test_work_is_shared_by_weight(site: Site) -> None:
    await site.store.add_user(User("ann", b"", weight=3.0))
    await site.store.add_user(User("bob", b""))
    ann, _ = await site.accept("ann", 900), await site.accept("bob", 900)
    await site.dispatcher()
    taken = await site.take(600)
    assert 0.70 < Counter(run for run, _ in taken)[ann.id] / len(taken) < 0.80


@pytest.mark.parametrize("kind", ["function", "namespace", "user"])
async def test_what_is_paused_waits_and_goes_on_when_it_is_resumed(site: Site, kind: str) -> None:
    paused, free = await site.accept("ann", 3), await site.accept("bob", 3, function="math")
    record: Function | Namespace | User | None
    if kind == "function":
        record = await site.store.get_function(f"text/{site.route}")
        assert record is not None
        await site.store.replace_record(replace(record, paused=True, version=2), version=1)
    else:
        record = Namespace("text", paused=True) if kind == "namespace" else User("ann", b"", paused=True)
        await site.store.add_record(record)
    await site.dispatcher()
    assert await site.take(3) == [(free.id, index) for index in range(3)]
    later = await site.accept("bob", 3, function="math")
    assert await site.take(3) == [(later.id, index) for index in range(3)]
    await site.store.replace_record(replace(record, paused=False, version=3), version=1 + (kind == "function"))
    assert await site.take(3) == [(paused.id, index) for index in range(3)]


async def test_a_paused_route_gets_nothing_until_it_is_resumed(site: Site) -> None:
    name = f"{site.route}2"
    await site.store.add_function(Function(f"far/{site.route}", route=name))
    await site.store.add_record(Route(site.route, paused=True))
    paused, free = await site.accept("ann", 3), await site.accept("ann", 1, function="far")
    await site.dispatcher()
    async with await site.broker.consume(queues.jobs_queue(name), prefetch=1) as far:
        [delivery] = await far.receive(1)
        assert [job[0] for job in _jobs(delivery)] == [free.id]
    assert (await site.broker.depth(site.queue)).ready == 0
    await site.store.replace_record(Route(site.route, version=2), version=1)
    assert await site.take(3) == [(paused.id, index) for index in range(3)]


async def test_jobs_that_cannot_be_made_into_messages_keep_nobody_else(
    site: Site, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    broken, free = await site.accept("ann", 3), await site.accept("ann", 300)
    make = module.block_messages

    def fails(block: Block, *args: Any, **jobs: Any) -> Any:
        if block.run == broken.id:
            raise OverflowError("a number that no message can hold")
        return make(block, *args, **jobs)

    monkeypatch.setattr(module, "block_messages", fails)
    await site.dispatcher()
    assert {run for run, _ in await site.take(300)} == {free.id}
    assert [record.message.count(broken.id) for record in caplog.records if record.exc_info] == [1], "and said once"
    assert [row.run for row in await site.store.backlog()] == [broken.id], "it is not lost"


async def test_a_fault_in_the_dispatcher_stops_it_for_a_moment(
    site: Site, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    run = await site.accept("ann", 3)
    look, faults = module.Marks.look, [KeyError("room"), ValueError("room")]

    async def fails(self: Any, route: str) -> float:
        if faults:
            raise faults.pop()
        return await look(self, route)

    monkeypatch.setattr(module.Marks, "look", fails)
    monkeypatch.setattr(module, "_PAUSES", (0.05, 0.1))
    await site.dispatcher()
    assert await site.take(3) == [(run.id, index) for index in range(3)]
    assert len([record for record in caplog.records if record.exc_info]) == 2


async def test_the_queue_holds_what_is_taken_soon_and_a_block_goes_out_in_parts(site: Site) -> None:
    run = await site.accept("ann", 2000)
    await site.dispatcher()
    await site.take(60)
    depth = await site.broker.depth(site.queue)
    assert depth.ready < 700, "and not 2000: most of it waits in the store"
    block = await site.store.get_block(f"{run.id}-0")
    assert block is not None
    assert 60 <= block.sent < 1500
    assert not block.published


async def test_each_job_goes_out_once_though_leaders_come_and_go(site: Site) -> None:
    run = await site.accept("ann", 150, blocks=4)
    jobs = {(run.id, number * 2048 + index) for number in range(4) for index in range(150)}
    leader = await site.dispatcher()
    taking = asyncio.create_task(site.take(len(jobs)))
    for _ in range(3):
        async with within():
            before = await site.sent(run)
            while await site.sent(run) <= before and not taking.done():
                await asyncio.sleep(0.01)
        other = await site.dispatcher()
        await leader.stop()
        leader = other
    await taking
    await site.empty()
    assert (await site.broker.depth(site.queue)).ready == 0
    assert Counter(site.taken) == Counter(jobs)


async def test_what_has_ended_or_is_paused_or_cancelled_does_not_go_out(site: Site) -> None:
    paused, cancelled, free = [await site.accept("ann", 3) for _ in range(3)]
    await site.store.update_run(paused.id, paused=True)
    await site.store.update_run(cancelled.id, state=RunState.CANCELLED)
    await site.dispatcher()
    assert await site.take(3) == [(free.id, index) for index in range(3)]
    await site.store.update_run(paused.id, paused=False)
    assert await site.take(3) == [(paused.id, index) for index in range(3)]
    await site.empty()
    assert (await site.broker.depth(site.queue)).ready == 0


async def test_what_has_a_limit_of_running_jobs_waits_at_the_gate(site: Site) -> None:
    await site.store.add_user(User("ann", b"", limits=Limits(running=1)))
    limited, free = await site.accept("ann", 3), await site.accept("bob", 3)
    await site.dispatcher()
    assert await site.take(3) == [(free.id, index) for index in range(3)]
    await site.empty()
    [waiting] = await site.store.list_delayed(f"{limited.id}-0")
    assert (waiting.gated, waiting.jobs) == (True, 0b111)


async def test_a_function_whose_speed_is_not_known_goes_out_little_by_little(site: Site) -> None:
    name = f"new/{site.route}"
    await site.store.add_function(Function(name, route=site.route))
    await site.accept("ann", 2000, function="new")
    await site.dispatcher()
    await site.take(1)
    assert (await site.broker.depth(site.queue)).ready <= 6


async def test_more_than_a_portion_of_blocks_waits(site: Site) -> None:
    """Some runs get a share of the room, but none of their blocks are read with the others'."""
    for user in ("ann", "bob"):
        await site.store.add_function(Function(f"{user}/{site.route}", route=site.route, mean_duration=1e-6))
    long = await site.accept("ann", 1, function="ann", blocks=300)
    late = await site.accept("bob", 1, function="bob", blocks=300)
    await site.dispatcher()
    await site.take(600)
    assert Counter(run for run, _ in site.taken) == {long.id: 300, late.id: 300}


async def test_of_a_block_that_went_out_in_part_what_was_sent_can_be_requeued(site: Site) -> None:
    run = await site.accept("ann", 100)
    await site.store.note_sent({f"{run.id}-0": 30})
    again = Again(site.store, site.broker, Catalogue(site.store), ServerSettings())
    assert await again.requeue_run(run.id) == Requeued(jobs=30, blocks=1)
    assert sorted(await site.take(30)) == [(run.id, index) for index in range(30)]
