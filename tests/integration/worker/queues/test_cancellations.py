"""What a worker does to begin nothing that was cancelled while it could not hear of it."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import cast

import pytest

from dts.broker import Broker, Event, Subscription, open_broker
from dts.model import new_id
from dts.wire.queues import RESULTS, TOPIC_CANCELLED_WHICH, end_of_answer, jobs_queue
from dts.worker.queues.cancellation_sync import CancellationSync
from dts.worker.worker import Worker
from tests.services.rabbitmq import RabbitServer, available
from tests.services.waiting import until, within
from tests.services.worker_bench import Bench, bench

__all__ = ["bench"]

TOUCH = """
import pathlib, time
def main(path, *wait):
    pathlib.Path(path).touch()
    while wait and not pathlib.Path(*wait).exists():
        time.sleep(0.01)
"""


async def test_a_worker_that_comes_before_timekeeper_takes_nothing_until_that_is_there(bench: Bench) -> None:
    bench.write("own/touch", TOUCH)
    touched = bench.functions / "touched"
    bench.cancelled = None
    cancelled = await bench.send("own/touch", [str(touched)])
    async with Worker(bench.settings(timekeeper_timeout=60), bench.broker):
        await asyncio.sleep(0.7)
        depth = await bench.broker.depth(jobs_queue("default"))
        assert (depth.ready, depth.held) == (1, 0), "others can have it meanwhile"
        bench.cancelled = cancelled
        await bench.run("text/upper", ["a"])
    assert not touched.exists()


async def test_a_worker_that_waits_for_timekeeper_ends_at_once_when_it_is_told_to(bench: Bench) -> None:
    bench.cancelled = None
    async with within(), Worker(bench.settings(timekeeper_timeout=3600), bench.broker):
        await asyncio.sleep(0.1)


class Ether:
    """A broker of events, and a subscription to them, that can lose some."""

    def __init__(self) -> None:
        self.missed = asyncio.Event()
        self.there = asyncio.Event()
        self.there.set()
        self.asked: list[str] = []
        self.events: asyncio.Queue[Event | None] = asyncio.Queue()

    async def subscribe(self, topics: object) -> Subscription:
        return cast("Subscription", self)

    async def __aenter__(self) -> Ether:
        return self

    async def __aexit__(self, *_: object) -> None:
        return None

    async def listening(self) -> None:
        await self.there.wait()

    async def get(self) -> Event | None:
        return await self.events.get()

    async def broadcast(self, topic: str, payload: str) -> bool:
        assert topic == TOPIC_CANCELLED_WHICH
        self.asked.append(payload)
        return True

    def answer(self, word: str, *ids: str) -> None:
        """Tell that these are cancelled, and no others."""
        self.events.put_nowait(Event("cancelled", " ".join([*ids, end_of_answer(word)])))


@pytest.fixture
def ether() -> Ether:
    """A broker that is there."""
    return Ether()


@pytest.fixture
async def sync(ether: Ether) -> AsyncIterator[CancellationSync]:
    """An sync that asks it."""

    async def on_change() -> None:
        return None

    async with CancellationSync(cast("Broker", ether), 60.0, lambda runs: None, on_change) as started:
        yield started


async def test_who_may_have_missed_something_is_not_informed_until_it_is_answered_anew(
    ether: Ether, sync: CancellationSync
) -> None:
    await until(lambda: bool(ether.asked))
    assert not sync.informed
    first = ether.asked[-1]
    ether.answer(first)
    await until(lambda: sync.informed)

    ether.missed.set()
    assert not sync.informed, "from that moment"
    await until(lambda: ether.asked[-1] != first)
    ether.answer(first)
    await asyncio.sleep(0.05)
    assert not sync.informed, "that was an answer to what it asked before"
    run = new_id()
    ether.answer(ether.asked[-1], run)
    await until(lambda: sync.informed)
    assert sync.known.is_run_cancelled(run)


async def test_nothing_is_asked_before_the_answer_could_be_heard(ether: Ether, sync: CancellationSync) -> None:
    await until(lambda: bool(ether.asked))
    first = ether.asked[-1]
    ether.answer(first)
    await until(lambda: sync.informed)
    ether.there.clear()
    sync.patience = 0.05
    ether.missed.set()
    await asyncio.sleep(0.3)
    assert ether.asked[-1] == first
    assert not sync.informed, "patience begins when the broker is back"
    ether.there.set()
    await until(lambda: sync.informed)
    assert ether.asked[-1] != first


async def test_what_is_missed_while_it_asks_makes_the_answer_worthless(ether: Ether, sync: CancellationSync) -> None:
    await until(lambda: bool(ether.asked))
    first = ether.asked[-1]
    ether.missed.set()
    ether.answer(first)
    await until(lambda: ether.asked[-1] != first)
    assert not sync.informed
    ether.answer(ether.asked[-1])
    await until(lambda: sync.informed)


@pytest.fixture
async def rabbit() -> AsyncIterator[RabbitServer]:
    """A RabbitMQ that a test may kill."""
    if not available():
        pytest.skip("no rabbitmq-server on this machine")
    server = RabbitServer()
    try:
        await asyncio.to_thread(server.start)
        yield server
    finally:
        await asyncio.to_thread(server.stop)


async def test_what_is_cancelled_while_rabbitmq_is_away_does_not_begin_when_it_is_back(
    rabbit: RabbitServer, tmp_path: Path
) -> None:
    go, functions = tmp_path / "go", tmp_path / "functions"
    functions.mkdir()
    async with (
        open_broker(rabbit.url) as broker,
        open_broker(rabbit.url) as of_worker,
        await broker.consume(RESULTS, prefetch=1000) as results,
        await broker.subscribe([TOPIC_CANCELLED_WHICH]) as questions,
    ):
        bench = Bench(broker, results, functions)
        bench.write("own/touch", TOUCH)
        answering = asyncio.create_task(bench.answer(questions))
        async with Worker(bench.settings(), of_worker) as worker:
            # One is at work, one in advance, the others wait at the broker.
            await bench.send("own/touch", [str(tmp_path / "busy"), str(go)])
            await until((tmp_path / "busy").exists)
            runs = [await bench.send("own/touch", [str(tmp_path / f"cancelled{number}")]) for number in range(4)]
            control = await bench.send("own/touch", [str(tmp_path / "control")])
            bench.cancelled = None
            await asyncio.to_thread(rabbit.kill)
            await until(lambda: worker.halted)
            go.touch()
            await asyncio.to_thread(rabbit.start)
            await asyncio.sleep(2)
            assert not (tmp_path / "control").exists(), "nobody has said yet which are cancelled"
            bench.cancelled = " ".join(runs)
            await bench.wait(control, 1)
            await bench.wait_empty()
        answering.cancel()
    assert set(os.listdir(tmp_path)) == {"functions", "go", "busy", "control"}
