"""Attempts that follow one another, however the steps of porters and timekeepers interleave, on each set of back ends.

Timekeeper publishes a slice and notes afterwards that it has fired. Whatever comes in between, or twice, or late: a
job goes on with its next attempt, once.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from typing import Any

import pytest

from dts.broker import Broker, Delivery, Message, open_broker
from dts.config import ServerSettings, load_settings
from dts.errors import StoreUnavailable
from dts.model import Block, Candidate, DelayedSlice, Function, Lease, Run, RunState, new_id
from dts.server.attempts.delays import Firing
from dts.server.attempts.leases import requeue_expired
from dts.server.attempts.plan import Attempts
from dts.server.daemons import Porter, Timekeeper
from dts.server.daemons.porter import read_results
from dts.server.intake.ingest import Arguments, batch_from_arguments, new_block
from dts.server.lookup.catalogue import Catalogue
from dts.server.publish.repair import Again
from dts.store import Store, open_store
from dts.store.contract.gate import Release
from dts.wire import codec, dts_pb2, queues
from tests.services.waiting import within

JOBS = 200
"""Jobs of the run that fails and fails, on each set of back ends."""


@dataclass
class Bench:
    """A store and a broker, and the steps of daemons one by one, by hand."""

    store: Store
    broker: Broker
    route: str

    def __post_init__(self) -> None:
        self.catalogue = Catalogue(self.store)
        self.again = Again(self.store, self.broker, self.catalogue, ServerSettings())

    async def add(self, count: int) -> Block:
        """A block that was published, and of which no message is left."""
        run = Run(new_id(), "ann", f"text/{self.route}", 2048, RunState.CLOSED, created=1.0)
        batch = batch_from_arguments([Arguments(b"", b"")] * count)
        block = replace(new_block(run, 0, run.function, batch), created=1.0, published=True)
        await self.store.add_blocks([block], run=run)
        return block

    async def report(self, block: Block, *jobs: int, attempt: int, worker: str = "w", **fields: Any) -> None:
        """Record, as porter does, that an attempt at jobs has failed and is worth another one."""
        results = [
            dts_pb2.Result(index=index, status=dts_pb2.RETRY, attempt=attempt, error=dts_pb2.Error(type="No"), **fields)
            for index in jobs
        ]
        batch = dts_pb2.ResultBatch(block=block.id, run=block.run, function="f", worker=worker, results=results)
        await Attempts(self.store).record([read_results(Delivery(Message(*codec.encode(batch)), queues.RESULTS, 0))])

    async def fire(self) -> None:
        """Publish what is due, as timekeeper does."""
        await Firing(self.store, self.broker, self.catalogue, ServerSettings()).fire()

    async def waiting(self, block: Block) -> list[tuple[int, int]]:
        """Attempt and jobs of the slices that have not fired."""
        return sorted((each.attempt, each.jobs) for each in await self.store.list_delayed(block.id))

    async def published(self, count: int) -> list[tuple[int, int, int]]:
        """Index, attempt and fence of so many jobs that were published."""
        found: list[tuple[int, int, int]] = []
        async with await self.broker.consume(queues.jobs_queue(self.route), prefetch=100) as consumer, within():
            while len(found) < count:
                deliveries = await consumer.receive(100)
                for each in deliveries:
                    batch = codec.decode(dts_pb2.JobBatch, each.message.body, each.message.content_encoding)
                    found += [(job.index, job.attempt, job.fence) for job in batch.jobs]
                await consumer.ack(deliveries)
        return sorted(found)


@pytest.fixture
async def bench(urls: tuple[str, str]) -> AsyncIterator[Bench]:
    route = f"t{uuid.uuid4().hex[:10]}"
    async with open_store(urls[0]) as store, open_broker(urls[1]) as broker:
        await store.add_function(Function(f"text/{route}", route=route))
        yield Bench(store, broker, route)


async def test_an_attempt_that_fails_before_its_slice_is_noted_as_fired_goes_on(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    block = await bench.add(2)
    await bench.report(block, 0, 1, attempt=1)
    finish = bench.store.finish_delayed

    async def finish_late(ids: Sequence[str], *, now: float) -> None:
        monkeypatch.setattr(bench.store, "finish_delayed", finish)
        await bench.report(block, 0, attempt=2, delay=60.0)
        await finish(ids, now=now)

    monkeypatch.setattr(bench.store, "finish_delayed", finish_late)
    await bench.fire()
    assert await bench.waiting(block) == [(3, 0b01)]
    assert await bench.published(2) == [(0, 2, 0), (1, 2, 0)]


@pytest.mark.parametrize("fired", [False, True])
async def test_an_attempt_that_ran_twice_goes_on_once(bench: Bench, fired: bool) -> None:
    block = await bench.add(3)
    await bench.report(block, 0, 1, attempt=1, worker="one", delay=0.0 if fired else 60.0)
    if fired:
        await bench.fire()
    await bench.report(block, 1, 2, attempt=1, worker="two", delay=60.0)
    assert await bench.waiting(block) == ([(2, 0b100)] if fired else [(2, 0b011), (2, 0b100)])


async def test_the_same_report_twice_in_a_row_and_in_one_go_plans_one_attempt(bench: Bench) -> None:
    block = await bench.add(1)
    for _ in range(2):
        await bench.report(block, 0, attempt=3, delay=60.0)
    assert await bench.waiting(block) == [(4, 1)]
    twice = [dts_pb2.Result(index=0, status=dts_pb2.RETRY, attempt=attempt, delay=60.0) for attempt in (4, 4, 5, 1)]
    batch = dts_pb2.ResultBatch(block=block.id, run=block.run, function="f", worker="w", results=twice)
    reading = read_results(Delivery(Message(*codec.encode(batch)), queues.RESULTS, 0))
    await Attempts(bench.store).record([reading, reading])
    assert await bench.waiting(block) == [(4, 1), (6, 1)]


async def test_a_report_costs_nothing_for_the_attempts_before_it(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """A block of many jobs with many attempts each has collected very many slices."""
    block = await bench.add(3)
    for attempt in range(1, 5):
        await bench.report(block, 0, 1, attempt=attempt)
        await bench.fire()
    read: list[dict[str, dict[int, int]]] = []
    planned_attempts = bench.store.planned_attempts

    async def noted(after: Any) -> dict[str, dict[int, int]]:
        planned = await planned_attempts(after)
        read.append({each: dict(attempts) for each, attempts in planned.items()})
        return planned

    monkeypatch.setattr(bench.store, "planned_attempts", noted)
    await bench.report(block, 0, 1, attempt=5, delay=60.0)
    await bench.report(block, 1, attempt=4, worker="late")
    await bench.report(block, 2, attempt=3, delay=60.0)
    assert await bench.waiting(block) == [(4, 0b100), (6, 0b011)]
    assert read == [{}, {block.id: {5: 0b011, 6: 0b011}}, {block.id: {4: 0b011, 5: 0b011, 6: 0b011}}]


async def test_jobs_that_were_cancelled_while_a_report_was_cut_off_are_taken_out_by_its_repeat(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    block = await bench.add(3)
    add_delayed = bench.store.add_delayed

    async def cut_off(slices: Sequence[DelayedSlice]) -> list[bool]:
        await add_delayed(slices)
        raise StoreUnavailable("the store went away after this")

    monkeypatch.setattr(bench.store, "add_delayed", cut_off)
    with pytest.raises(StoreUnavailable):
        await bench.report(block, 0, 1, attempt=1, delay=60.0)
    monkeypatch.undo()
    await bench.store.record([Candidate(block.id, cancelled=0b001)])  # by somebody who saw no slice yet
    await bench.report(block, 0, 1, attempt=1, delay=60.0)
    assert await bench.waiting(block) == [(2, 0b010)]


async def test_a_slice_that_two_timekeepers_fire_goes_on_once(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    block = await bench.add(1)
    await bench.report(block, 0, attempt=1)
    slices = await bench.store.claim_delayed(now=time.time(), limit=9, lease=60)
    claims: list[Sequence[DelayedSlice]] = [slices, [], slices, []]

    async def claim_again(**_: object) -> Sequence[DelayedSlice]:  # the claim of the first has ended meanwhile
        return claims.pop(0)

    monkeypatch.setattr(bench.store, "claim_delayed", claim_again)
    await bench.fire()
    await bench.fire()
    monkeypatch.undo()
    assert await bench.published(2) == [(0, 2, 0)] * 2
    for worker in ("one", "two"):
        await bench.report(block, 0, attempt=2, worker=worker)
        await bench.fire()
    assert await bench.published(1) == [(0, 3, 0)]
    assert await bench.waiting(block) == []


async def test_an_attempt_that_fails_before_the_gate_has_noted_its_release_goes_on(bench: Bench) -> None:
    block = await bench.add(2)
    await bench.report(block, 0, 1, attempt=1)
    [due] = await bench.store.claim_delayed(now=time.time(), limit=9, lease=60)
    await bench.store.gate_delayed([due.id], due=1.0)
    await bench.report(block, 0, 1, attempt=1, worker="late")
    [gated] = await bench.store.list_gated("ann", block.function, limit=9)
    assert await bench.store.release_gated([Release(gated, 0b01, 0b10)]) == [True]
    await bench.report(block, 0, attempt=2, delay=60.0)
    await bench.store.confirm_released([gated.id], now=time.time())
    await bench.report(block, 0, attempt=2, delay=60.0, worker="late")
    assert await bench.waiting(block) == [(2, 0b10), (3, 0b01)]


async def test_a_repaired_job_goes_on_with_the_attempt_that_was_lost(bench: Bench) -> None:
    block = await bench.add(3)
    await bench.report(block, 0, 1, attempt=1)
    await bench.fire()
    await bench.report(block, 0, attempt=2)
    await bench.fire()
    assert len(await bench.published(3)) == 3
    outcome = await bench.store.get_outcome(block.id)
    assert outcome is not None
    assert await bench.again.publish(outcome, 0b111) == 3
    assert await bench.published(3) == [(0, 3, 0), (1, 2, 0), (2, 1, 0)]
    await bench.report(block, 0, attempt=3, delay=60.0)
    await bench.report(block, 0, attempt=3, delay=60.0, worker="late")  # whose message was not lost after all
    assert await bench.waiting(block) == [(4, 1)]


async def test_a_job_under_a_lease_keeps_fence_and_attempt_however_it_is_lost(bench: Bench) -> None:
    block = await bench.add(1)
    held = Lease(block.id, 0, block.run, "w", fence=1, attempt=1, expires=time.time() + 60)
    await bench.store.take_leases([held])
    await bench.report(block, 0, attempt=1, fence=1)
    await bench.fire()
    await bench.report(block, 0, attempt=1, fence=1, worker="late")
    assert await bench.published(1) == [(0, 2, 2)]
    outcome = await bench.store.get_outcome(block.id)
    assert outcome is not None
    await bench.again.publish(outcome, 1)
    assert await bench.published(1) == [(0, 2, 2)]
    await bench.store.take_leases([replace(held, fence=2, attempt=2, expires=1.0)])
    assert await requeue_expired(bench.store) == 1
    await bench.fire()
    assert await bench.published(1) == [(0, 3, 3)]
    await bench.report(block, 0, attempt=2, fence=2, worker="w")
    assert await bench.waiting(block) == []
    await bench.report(block, 0, attempt=3, fence=3, delay=60.0)
    assert await bench.waiting(block) == [(4, 1)]


async def test_every_job_of_a_run_is_tried_exactly_as_often_as_it_may(urls: tuple[str, str]) -> None:
    """Half of the jobs fail each of four attempts and half of them two, with next to no backoff."""
    route = f"t{uuid.uuid4().hex[:10]}"
    settings = load_settings(
        None, environment={}, flags={"daemons": {"relay_interval": 0.02}, "server": {"max_slice": 8}}
    )
    executed: Counter[tuple[int, int]] = Counter()

    def result_of(job: dts_pb2.Job) -> dts_pb2.Result:
        attempt = job.attempt or 1
        executed[job.index, attempt] += 1
        if attempt == 4 or (job.index % 2 and attempt == 3):
            return dts_pb2.Result(index=job.index, status=dts_pb2.SUCCEEDED if job.index % 2 else dts_pb2.FAILED)
        delay = (job.index * 7 + attempt) % 5 / 100
        return dts_pb2.Result(index=job.index, status=dts_pb2.RETRY, attempt=attempt, delay=delay)

    async with AsyncExitStack() as stack:
        store = await stack.enter_async_context(open_store(urls[0]))
        broker = await stack.enter_async_context(open_broker(urls[1]))
        await store.add_function(Function(f"text/{route}", route=route))
        for kind in (Timekeeper, Timekeeper, Timekeeper, Porter, Porter):
            own = await stack.enter_async_context(open_store(urls[0]))
            await stack.enter_async_context(kind(own, broker, settings))
        bench = Bench(store, broker, route)
        block = await bench.add(JOBS)
        outcome = await store.get_outcome(block.id)
        assert outcome is not None
        await bench.again.publish(outcome, outcome.unfinished)
        jobs = await stack.enter_async_context(await broker.consume(queues.jobs_queue(route), prefetch=100))
        left = 4 * JOBS - JOBS // 2
        async with within():
            while left:
                deliveries = await jobs.receive(100)
                for each in deliveries:
                    batch = codec.decode(dts_pb2.JobBatch, each.message.body, each.message.content_encoding)
                    results = [result_of(job) for job in batch.jobs]
                    left -= len(results)
                    news = dts_pb2.ResultBatch(block=block.id, run=block.run, function=block.function, results=results)
                    await broker.publish(queues.RESULTS, [Message(*codec.encode(news))])
                await jobs.ack(deliveries)
            while outcome.unfinished:
                outcome = await store.get_outcome(block.id)
                assert outcome is not None
                await asyncio.sleep(0.02)
    assert (outcome.succeeded, outcome.failed) == (JOBS // 2, JOBS // 2)
    assert executed == {(job, attempt): 1 for job in range(JOBS) for attempt in range(1, 4 if job % 2 else 5)}
