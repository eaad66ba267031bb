"""Retries, delays, leases and deadlines, with three timekeepers on each set of back ends."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace

import pytest

from dts.broker import Broker, Consumer, Message, open_broker
from dts.config import Settings, load_settings
from dts.model import Block, DelayedSlice, Function, Limits, Outcome, Run, RunState, new_id
from dts.server.daemons import Porter, Timekeeper
from dts.server.ending import cancel, notices
from dts.server.intake.ingest import Arguments, batch_from_arguments, new_block
from dts.server.record.results import part_results
from dts.store import Store, open_store
from dts.wire import codec, dts_pb2, queues
from tests.services.waiting import within

TIMEKEEPERS = 3


@dataclass
class Desk:
    """What a worker and a client see of the daemons. `route` is the test's own, since tests share a broker."""

    store: Store
    broker: Broker
    jobs: Consumer
    route: str

    async def add(self, count: int, **fields: object) -> Block:
        """A block that is stored and not published."""
        run = Run(new_id(), "ann", f"text/{self.route}", 64, RunState.CLOSED, created=1.0)
        batch = batch_from_arguments([Arguments(b"[%d]" % number, b"") for number in range(count)])
        block = replace(new_block(run, 0, run.function, batch), created=1.0, **fields)  # type: ignore[arg-type]
        await self.store.add_blocks([block], run=run)
        return block

    async def take(self, count: int, *, settle: bool = True) -> list[dts_pb2.JobBatch]:
        """The batches of messages that have `count` jobs together."""
        batches: list[dts_pb2.JobBatch] = []
        async with within():
            while sum(len(batch.jobs) for batch in batches) < count:
                deliveries = await self.jobs.receive(10)
                for delivery in deliveries:
                    batches.append(
                        codec.decode(dts_pb2.JobBatch, delivery.message.body, delivery.message.content_encoding)
                    )
                if settle:
                    await self.jobs.ack(deliveries)
        return batches

    async def nothing_more(self, seconds: float = 0.7) -> None:
        """Make sure that no message comes for a while."""
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(seconds):
                await self.jobs.receive()

    async def say(self, batch: dts_pb2.JobBatch, **fields: object) -> None:
        """Send results for a batch as a worker would."""
        news = dts_pb2.ResultBatch(
            block=batch.block,
            run=batch.run,
            function=batch.function,
            worker="w",
            **fields,  # type: ignore[arg-type]
        )
        await self.broker.publish(queues.RESULTS, [Message(*codec.encode(news))])

    async def outcome(self, block: Block, until: Callable[[Outcome], bool]) -> Outcome:
        """The block's outcome once it is as expected."""
        async with within():
            while True:
                outcome = await self.store.get_outcome(block.id)
                assert outcome is not None
                if until(outcome):
                    return outcome
                await asyncio.sleep(0.02)

    async def waiting(self, block: Block, jobs: int) -> list[DelayedSlice]:
        """The block's delayed slices once they have so many jobs: they are added after results are recorded."""
        async with within():
            while True:
                slices = await self.store.list_delayed(block.id)
                if sum(each.jobs.bit_count() for each in slices) >= jobs:
                    return slices
                await asyncio.sleep(0.02)


@pytest.fixture
async def desk(urls: tuple[str, str]) -> AsyncIterator[Desk]:
    """Back ends with three timekeepers and two porters."""
    route = f"t{uuid.uuid4().hex[:10]}"
    settings: Settings = load_settings(
        None,
        environment={},
        flags={"daemons": {"relay_interval": 0.05}, "server": {"max_slice": 4}},
    )
    async with AsyncExitStack() as stack:
        store = await stack.enter_async_context(open_store(urls[0]))
        broker = await stack.enter_async_context(open_broker(f"{urls[1]}?delivery_limit=2"))
        await store.add_function(Function(f"text/{route}", route=route))
        for kind in [Timekeeper] * TIMEKEEPERS + [Porter] * 2:
            own = await stack.enter_async_context(open_store(urls[0]))
            await stack.enter_async_context(kind(own, broker, settings))
        jobs = await stack.enter_async_context(await broker.consume(queues.jobs_queue(route), prefetch=100))
        yield Desk(store, broker, jobs, route)


def retry(job: dts_pb2.Job, delay: float = 0.3, **fields: object) -> dts_pb2.Result:
    error = dts_pb2.Error(type="OSError", message="come back later")
    return dts_pb2.Result(
        index=job.index,
        status=dts_pb2.RETRY,
        delay=delay,
        error=error,
        attempt=job.attempt or 1,
        fence=job.fence,
        **fields,  # type: ignore[arg-type]
    )


def success(job: dts_pb2.Job) -> dts_pb2.Result:
    return dts_pb2.Result(index=job.index, status=dts_pb2.SUCCEEDED, value=b"1", fence=job.fence)


async def test_what_is_worth_another_attempt_comes_once_more_when_it_is_due(desk: Desk) -> None:
    block = await desk.add(6)
    for batch in await desk.take(6):
        again = [job for job in batch.jobs if job.index % 2]
        results = [retry(job, 2.0, kills=job.index) if job in again else success(job) for job in batch.jobs]
        started = time.time()
        for _ in range(2):  # a redelivered message of results changes nothing
            await desk.say(batch, results=results, started=started)
    await desk.outcome(block, lambda outcome: outcome.succeeded == 3)
    assert sum(each.jobs for each in await desk.waiting(block, 3)) == 0b101010
    assert (await desk.store.run_statistics(block.run)).delayed == 3
    second = [job for batch in await desk.take(3) for job in batch.jobs]
    assert sorted((job.index, job.attempt, job.kills) for job in second) == [(1, 2, 1), (3, 2, 3), (5, 2, 5)]
    assert {job.args for job in second} == {b"[1]", b"[3]", b"[5]"}
    await desk.nothing_more()
    assert (await desk.store.run_statistics(block.run)).delayed == 0


async def test_what_ended_while_it_waited_does_not_come_back(desk: Desk) -> None:
    block = await desk.add(2)
    for batch in await desk.take(2):
        await desk.say(batch, results=[retry(job, 1.0) for job in batch.jobs])
    async with within():
        while sum(each.jobs for each in await desk.store.list_delayed(block.id)) != 0b11:
            await asyncio.sleep(0.02)
    outcome = await desk.outcome(block, lambda outcome: not outcome.ended)
    assert await cancel.cancel_job(desk.store, desk.broker, outcome, 0, f"{block.run}-0")
    assert (await desk.store.run_statistics(block.run)).delayed == 1
    [batch] = await desk.take(1)
    assert [job.index for job in batch.jobs] == [1]
    await desk.nothing_more()


async def test_a_block_with_a_time_is_published_then_and_once(desk: Desk) -> None:
    due = time.time() + 0.5
    await desk.add(8, not_before=due)
    batches = await desk.take(8)
    assert time.time() >= due
    assert sorted(job.index for batch in batches for job in batch.jobs) == list(range(8))
    await desk.nothing_more()


async def test_jobs_past_their_deadline_end_without_being_started(desk: Desk) -> None:
    block = await desk.add(3, not_before=time.time() + 1000, deadline=time.time() - 100)
    block_without_own = await desk.outcome(block, lambda outcome: True)
    assert block_without_own.unfinished == 0b111, "the block says no deadline for its jobs, so none is over"
    batch = batch_from_arguments([Arguments(b"", b"")] * 3)
    batch.options.deadline = time.time() - 100
    run = Run(new_id(), "ann", f"text/{desk.route}", 64, RunState.CLOSED, created=1.0)
    late = replace(
        new_block(run, 0, run.function, batch), not_before=time.time() + 1000, deadline=batch.options.deadline
    )
    await desk.store.add_blocks([late], run=run)
    await desk.outcome(late, lambda outcome: outcome.failed == 3)
    [part] = await desk.store.get_parts(late.id)
    results = codec.decode(dts_pb2.ResultBatch, part.body, part.content_encoding).results
    assert {result.error.reason for result in results} == {"deadline"}


async def test_an_expired_lease_is_queued_once_and_the_late_result_is_void(desk: Desk) -> None:
    await desk.store.add_function(Function(f"long/{desk.route}", route=desk.route, timeout=7200.0))
    run = Run(new_id(), "ann", f"long/{desk.route}", 64, RunState.CLOSED, created=1.0)
    block = replace(new_block(run, 0, run.function, batch_from_arguments([Arguments(b"", b"")] * 2)), created=1.0)
    await desk.store.add_blocks([block], run=run)
    first = await desk.take(2)
    assert [(batch.lease, len(batch.jobs), batch.jobs[0].fence) for batch in first] == [(True, 1, 1)] * 2
    frozen, healthy = sorted(first, key=lambda batch: batch.jobs[0].index)
    for batch, seconds in ((frozen, 1.0), (healthy, 1000.0)):
        claim = dts_pb2.Claim(index=batch.jobs[0].index, fence=1, seconds=seconds)
        await desk.say(batch, claims=[claim])
    await desk.outcome(block, lambda outcome: bool(outcome.running))
    [again] = await desk.take(1)
    assert [(job.index, job.fence, job.attempt) for job in again.jobs] == [(0, 2, 2)]
    await desk.say(frozen, results=[success(frozen.jobs[0])])
    await desk.say(frozen, claims=[dts_pb2.Claim(index=0, fence=1, seconds=1000)])
    await desk.say(healthy, results=[success(healthy.jobs[0])])
    await desk.outcome(block, lambda outcome: outcome.succeeded == 1 and outcome.ended == 0b10)
    await desk.nothing_more()
    assert [lease.fence for lease in await desk.store.list_leases([block.id])] == [2]
    await desk.say(again, results=[success(again.jobs[0])])
    await desk.outcome(block, lambda outcome: outcome.succeeded == 2)
    async with within():
        while await desk.store.list_leases([block.id]):
            await asyncio.sleep(0.02)


async def test_a_retry_under_a_lease_comes_back_under_the_next_fence(desk: Desk) -> None:
    await desk.store.add_function(Function(f"long/{desk.route}", route=desk.route, timeout=7200.0))
    run = Run(new_id(), "ann", f"long/{desk.route}", 64, RunState.CLOSED, created=1.0)
    block = replace(new_block(run, 0, run.function, batch_from_arguments([Arguments(b"", b"")])), created=1.0)
    await desk.store.add_blocks([block], run=run)
    [batch] = await desk.take(1)
    await desk.say(batch, claims=[dts_pb2.Claim(index=0, fence=1, seconds=1.0)])
    for _ in range(2):
        await desk.say(batch, results=[retry(batch.jobs[0], 0.2)])
    [again] = await desk.take(1)
    assert [(job.fence, job.attempt) for job in again.jobs] == [(2, 2)]
    await desk.nothing_more(1.5)


async def test_jobs_of_a_message_that_kills_its_workers_go_on_singly(desk: Desk) -> None:
    block = await desk.add(3)
    for _ in range(2):
        deliveries = await desk.jobs.receive(10)
        assert len(deliveries) == 1
        await desk.jobs.nack(deliveries)
    batches = await desk.take(3)
    assert sorted((job.index, job.kills) for batch in batches for job in batch.jobs) == [(0, 1), (1, 1), (2, 1)]
    assert len(batches) == 3
    killer = next(batch for batch in batches if batch.jobs[0].index == 1)
    message = Message(*codec.encode(killer), {"block": block.id, "run": block.run, "function": block.function})
    await desk.broker.publish(queues.jobs_queue(desk.route), [message])
    for _ in range(2):
        async with within():
            await desk.jobs.nack(await desk.jobs.receive())
    outcome = await desk.outcome(block, lambda outcome: bool(outcome.failed))
    assert outcome.ended == 0b10
    [part] = await desk.store.get_parts(block.id)
    [result] = codec.decode(dts_pb2.ResultBatch, part.body, part.content_encoding).results
    assert result.error.reason == "poison"


async def test_a_workers_question_is_answered_with_what_was_cancelled(desk: Desk) -> None:
    block = await desk.add(2)
    run = Run(new_id(), "ann", block.function, 64, RunState.CANCELLED, created=time.time())
    await desk.store.add_run(run)
    outcome = await desk.outcome(block, lambda outcome: True)
    assert await cancel.cancel_job(desk.store, desk.broker, outcome, 1, f"{block.run}-1")
    async with await desk.broker.subscribe([queues.TOPIC_CANCELLED]) as events:
        await desk.broker.broadcast(queues.TOPIC_CANCELLED_WHICH, "")
        told: set[str] = set()
        async with within():
            while not {run.id, f"{block.run}-1"} <= told:
                event = await events.get()
                assert event is not None
                told |= set(event.payload.split())


async def test_all_who_ask_at_the_same_time_get_one_answer(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    reads, read, go = 0, notices.recently_cancelled, asyncio.Event()

    async def slow(store: Store) -> list[str]:
        nonlocal reads
        reads += 1
        await go.wait()
        return await read(store)

    monkeypatch.setattr(notices, "recently_cancelled", slow)
    words = [f"word{number}" for number in range(50)]
    async with await desk.broker.subscribe([queues.TOPIC_CANCELLED]) as events, within():
        for word in words:
            await desk.broker.broadcast(queues.TOPIC_CANCELLED_WHICH, word)
        while not reads:
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.3)
        go.set()
        told: set[str] = set()
        while not told.issuperset(queues.end_of_answer(word) for word in words):
            event = await events.get()
            assert event is not None
            told |= set(event.payload.split())
    assert reads < 10


async def test_a_users_and_a_functions_jobs_are_cancelled(desk: Desk) -> None:
    mine, other = await desk.add(3), await desk.add(2)
    await desk.store.mark_published([mine.id, other.id])
    count, runs = await cancel.cancel_unfinished(desk.store, desk.broker, user="ann", function=mine.function)
    assert (count, runs) == (5, {mine.run, other.run})
    assert (await desk.store.run_statistics(mine.run)).cancelled == 3
    run = await desk.store.get_run(mine.run)
    assert run is not None
    assert run.state is RunState.CANCELLED
    assert await cancel.cancel_unfinished(desk.store, desk.broker, user="ann") == (0, set())


async def test_a_block_that_is_damaged_in_the_store_costs_its_own_jobs_alone(desk: Desk) -> None:
    run = Run(new_id(), "ann", f"text/{desk.route}", 16, created=time.time())
    await desk.store.add_run(run)
    batch = batch_from_arguments([Arguments(b"[1]", b"")] * 3)
    whole = new_block(run, 1, run.function, batch)
    torn = replace(new_block(run, 0, run.function, batch), body=b"\xff\xff", content_encoding="")
    await desk.store.add_blocks([torn, whole])
    await desk.take(3)
    outcome = await desk.outcome(torn, lambda outcome: outcome.failed == 3)
    [part] = await desk.store.get_parts(torn.id)
    [(_, first), *_] = part_results(part)
    assert (first.error.type, first.error.reason) == ("DamagedBlock", "damaged")
    assert outcome.unfinished == 0


@pytest.mark.parametrize("gated", [False, True])
async def test_a_damaged_block_of_which_jobs_wait_costs_its_own_jobs_alone(desk: Desk, gated: bool) -> None:
    run = Run(new_id(), "ann", f"text/{desk.route}", 16, created=time.time())
    await desk.store.add_run(run)
    if gated:
        function = await desk.store.get_function(run.function)
        assert function is not None
        limited = replace(function, limits=Limits(running=10), version=function.version + 1)
        assert await desk.store.replace_record(limited, version=function.version)
    batch = batch_from_arguments([Arguments(b"[1]", b"")] * 3)
    blocks = [new_block(run, number, run.function, batch) for number in range(2)]
    torn = replace(blocks[0], body=b"\xff\xff", content_encoding="", published=True)
    await desk.store.add_blocks([torn, replace(blocks[1], published=True)])
    due = time.time()
    slices = [DelayedSlice(f"{block.id}.x", block.id, run.id, "ann", run.function, due, 0b111) for block in blocks]
    await desk.store.add_delayed(slices)
    assert sum(len(each.jobs) for each in await desk.take(3)) == 3
    await desk.outcome(torn, lambda outcome: outcome.failed == 3)
