"""No message waits in a worker that cannot begin it soon, while another worker could."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from dts.broker import open_broker
from dts.broker.amqp import link as amqp_link
from dts.config import RouteSettings
from dts.wire.dts_pb2 import Options
from dts.wire.queues import RESULTS, TOPIC_CANCELLED_WHICH, jobs_queue
from dts.worker.events import Events
from dts.worker.worker import Worker
from tests.services.waiting import until, within
from tests.services.worker_bench import Bench, value

GATE = (
    "import os, pathlib, time\n"
    "def main(folder, name):\n"
    "    pathlib.Path(folder, name + '.begun').write_text(str(os.getppid()))\n"
    "    while not pathlib.Path(folder, 'open').exists(): time.sleep(0.005)\n"
    "    return name\n"
)
ASYNC_GATE = (
    "import asyncio, pathlib\n"
    "async def main(folder, name):\n"
    "    pathlib.Path(folder, name + '.begun').touch()\n"
    "    while not pathlib.Path(folder, 'open').exists(): await asyncio.sleep(0.005)\n"
    "    return name\n"
)


@pytest.fixture(params=["sqlite", "amqp"])
async def bench(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Bench]:
    """A bench on either broker, with routes of its own."""
    monkeypatch.setattr(amqp_link, "REGISTRY_SAVED_AFTER", 0.0)
    functions = tmp_path / "functions"
    functions.mkdir()
    url = f"sqlite:///{tmp_path}/queue.db"
    if request.param == "amqp":
        url = request.getfixturevalue("rabbit").url
    async with AsyncExitStack() as stack:
        broker = await stack.enter_async_context(open_broker(url))
        results = await stack.enter_async_context(await broker.consume(RESULTS, prefetch=1000))
        questions = await stack.enter_async_context(await broker.subscribe([TOPIC_CANCELLED_WHICH]))
        made = Bench(broker, results, functions)
        made.write("own/gate", GATE)
        answering = asyncio.create_task(made.answer(questions))
        yield made
        answering.cancel()


@pytest.fixture
def route() -> str:
    return f"r{uuid.uuid4().hex[:10]}"


async def send(bench: Bench, route: str, *names: str, function: str = "own/gate") -> list[str]:
    """One message for each name."""
    return [await bench.send(function, [str(bench.functions), name], route=route) for name in names]


async def begun(bench: Bench, *names: str) -> None:
    await until(lambda: all((bench.functions / f"{name}.begun").exists() for name in names))


async def finish(bench: Bench, runs: list[str]) -> None:
    """Let all go on; each must have run once."""
    (bench.functions / "open").touch()
    for run in runs:
        await bench.wait(run, 1)
    assert sum(len(batch.results) for batch in bench.batches if batch.run in runs) == len(runs)


async def hurry_up(bench: Bench, route: str, worker: Worker) -> None:
    """Have a worker do quick messages, until it looks ahead."""
    async with within():
        while not worker.executor.looks_ahead:
            runs = [await bench.send("text/upper", ["a"], route=route) for _ in range(8 * worker.executor.processes)]
            for run in runs:
                await bench.wait(run, 1)


async def test_what_was_fetched_ahead_goes_back_when_the_one_at_work_takes_its_time(bench: Bench, route: str) -> None:
    async with Worker(bench.settings(name="one", routes=(route,)), bench.broker) as one:
        await hurry_up(bench, route, one)
        await until(lambda: one.free_slots == 2)
        runs = await send(bench, route, "first", "second")
        await begun(bench, "first")
        async with Worker(bench.settings(name="two", routes=(route,)), bench.broker):
            await begun(bench, "second")
            await finish(bench, runs)
        at = {batch.run: batch.worker for batch in bench.batches if batch.results}
        assert [at[run] for run in runs] == ["one", "two"]
    await bench.wait_empty(route)


async def test_a_worker_that_comes_late_gets_what_others_have_not_begun(bench: Bench, route: str) -> None:
    names = [f"n{number}" for number in range(6)]
    async with Worker(bench.settings(name="early", processes=3, routes=(route,)), bench.broker) as early:
        await hurry_up(bench, route, early)
        runs = await send(bench, route, *names)
        async with Worker(bench.settings(name="late", processes=3, routes=(route,)), bench.broker):
            await begun(bench, *names)
            await finish(bench, runs)
    await bench.wait_empty(route)


async def test_a_message_that_was_given_back_stays_in_the_queue_until_a_child_is_free(bench: Bench, route: str) -> None:
    async with Worker(bench.settings(routes=(route,)), bench.broker) as worker:
        await hurry_up(bench, route, worker)
        before = worker.events.total(Events.RECV)
        runs = await send(bench, route, "first")
        await begun(bench, "first")
        runs += await send(bench, route, "second", "third")
        async with within():
            while (await bench.broker.depth(jobs_queue(route))).ready < 2 or worker.executor.looks_ahead:
                await asyncio.sleep(0.01)
        for _ in range(20):
            await asyncio.sleep(0.02)
            assert (await bench.broker.depth(jobs_queue(route))).ready == 2
        assert worker.events.total(Events.RECV) == before + 1
        await finish(bench, runs)
    assert worker.events.total(Events.RECV) == before + 3, "what is given back is not counted twice"
    await bench.wait_empty(route)


async def test_another_route_waits_for_no_child_that_is_busy_with_one(bench: Bench, route: str) -> None:
    other = f"{route}x"
    async with Worker(bench.settings(name="one", routes=(route, other)), bench.broker):
        runs = await send(bench, route, "first")
        await begun(bench, "first")
        runs += await send(bench, other, "second")
        async with Worker(bench.settings(name="two", routes=(other,)), bench.broker):
            await begun(bench, "second")
            runs += await send(bench, other, "third")
            await finish(bench, runs)
    await bench.wait_empty(other)


async def test_async_jobs_that_one_worker_has_no_room_for_go_to_another(bench: Bench, route: str) -> None:
    bench.write("own/many", ASYNC_GATE)
    names = [f"n{number}" for number in range(8)]
    settings = {"routes": (route,), "concurrency": 4}
    async with Worker(bench.settings(name="one", **settings), bench.broker):
        runs = await send(bench, route, *names, function="own/many")
        # Whichever four: what waits for a child that is slow to start goes back, to the end of the queue on RabbitMQ.
        await until(lambda: len(list(bench.functions.parent.rglob("n?.begun"))) == 4)
        async with Worker(bench.settings(name="two", **settings), bench.broker):
            await begun(bench, *names)
            await finish(bench, runs)
    await bench.wait_empty(route)


async def test_messages_of_many_jobs_are_given_back_whole(bench: Bench, route: str) -> None:
    async with Worker(bench.settings(name="one", routes=(route,)), bench.broker) as one:
        await hurry_up(bench, route, one)
        blocking = await send(bench, route, "first")
        await begun(bench, "first")
        run = await bench.send("text/upper", *([f"{n}"] for n in range(50)), route=route, options=Options())
        async with Worker(bench.settings(name="two", routes=(route,)), bench.broker) as two:
            assert [value(result) for result in await bench.wait(run, 50)] == [f"{n}" for n in range(50)]
            assert two.events.total(Events.RECV) == 50
        assert len([batch for batch in bench.batches if batch.run == run and batch.results]) <= 3
        await finish(bench, blocking)
    await bench.wait_empty(route)


async def test_a_route_with_a_prefetch_of_its_own_keeps_it(bench: Bench, route: str) -> None:
    settings = bench.settings(routes=(), route=(RouteSettings(route, prefetch=2),))
    async with Worker(settings, bench.broker):
        runs = await send(bench, route, "first", "second", "third")
        await begun(bench, "first")
        async with within():
            while (await bench.broker.depth(jobs_queue(route))).ready != 1:
                await asyncio.sleep(0.01)
        await finish(bench, runs)
    await bench.wait_empty(route)
