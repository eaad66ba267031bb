"""A bench to test workers on: a broker, a functions directory, and whatever comes out of the results queue."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import psutil
import pytest

from dts.broker import Broker, Consumer, Message, Subscription, open_broker
from dts.config import WorkerSettings
from dts.model import new_id
from dts.wire import codec
from dts.wire.dts_pb2 import RETRY, SUCCEEDED, JobBatch, Options, Result, ResultBatch
from dts.wire.queues import RESULTS, TOPIC_CANCELLED, TOPIC_CANCELLED_WHICH, end_of_answer, jobs_queue
from tests.services.fleet import a_fleet_key
from tests.services.waiting import within

"""Seconds after which a test that waits has failed."""


class Bench:
    """A broker, a functions directory, and what has come out of the results queue."""

    def __init__(self, broker: Broker, results: Consumer, functions: Path) -> None:
        self.broker = broker
        self.functions = functions
        self.batches: list[ResultBatch] = []
        self.times: list[float] = []
        """When each batch came, by the loop's clock."""
        self.retries: list[Result] = []
        """Attempts that failed and were worth another one."""
        self._sent: dict[str, JobBatch] = {}
        self._results = results
        self.cancelled: str | None = ""
        """Ids of runs and jobs that a worker is told of when it asks; None lets nobody answer."""

    def settings(self, **changes: Any) -> WorkerSettings:
        """Settings of a worker with one child."""
        given: dict[str, Any] = {"processes": 1, "functions": str(self.functions), "name": "bench"}
        given["versions"] = str(self.functions.with_name("versions"))
        return WorkerSettings(**given | changes)

    def write(self, name: str, code: str) -> None:
        """Deploy a function, by a rename as a deployment does, with a time of change of long ago: it came whole."""
        path = self.functions / f"{name}.py"
        path.parent.mkdir(exist_ok=True)
        path.with_suffix(".new").write_text(code)
        os.utime(path.with_suffix(".new"), (1e9, 1e9))
        path.with_suffix(".new").rename(path)

    async def send(
        self,
        function: str,
        *calls: Sequence[object],
        run: str | None = None,
        route: str = "default",
        options: Options | None = None,
        lease: bool = False,
    ) -> str:
        """Publish one message with a job for each list of arguments; returns the run's id."""
        run = run or new_id()
        batch = JobBatch(block=f"{run}-0", run=run, function=function, options=options, lease=lease)
        for index, arguments in enumerate(calls):
            batch.jobs.add(index=index, args=msgspec.json.encode(list(arguments)))
        self._sent[batch.block] = batch
        await self.publish(batch, route)
        return run

    async def publish(self, batch: JobBatch, route: str = "default") -> None:
        """Publish one message."""
        headers: dict[str, str | int] = {
            "block": batch.block,
            "run": batch.run,
            "function": batch.function,
            "count": len(batch.jobs),
            "number": 0,
        }
        if batch.options.version:
            headers["version"] = batch.options.version
        await self.broker.publish(jobs_queue(route), [Message(*codec.encode(batch), headers)])

    async def wait(self, run: str, jobs: int) -> list[Result]:
        """Wait until so many jobs of a run have ended; their results by index, the first one of each."""
        async with within():
            while len(found := self._ended(run)) < jobs:
                await self.receive()
        return [found[index] for index in sorted(found)]

    async def receive(self) -> None:
        """Wait for the next batches of results."""
        deliveries = await self._results.receive(100)
        for delivery in deliveries:
            message = delivery.message
            batch = codec.decode(ResultBatch, message.body, message.content_encoding)
            assert message.headers["block"] == batch.block
            assert message.headers["run"] == batch.run
            assert message.headers["function"] == batch.function
            assert message.headers["count"] == len(batch.results) + len(batch.running)
            self.batches.append(batch)
            self.times.append(asyncio.get_running_loop().time())
            await self._send_again(batch)
        await self._results.ack(deliveries)

    async def run(
        self, function: str, *calls: Sequence[object], options: Options | None = None, lease: bool = False
    ) -> list[Result]:
        """Send a message and wait for all its results."""
        return await self.wait(await self.send(function, *calls, options=options, lease=lease), len(calls))

    async def _send_again(self, batch: ResultBatch) -> None:
        """Do what timekeeper does, only at once: another attempt at jobs that are worth one."""
        for result in batch.results:
            if result.status == RETRY:
                self.retries.append(result)
                sent = self._sent[batch.block]
                again = JobBatch(block=sent.block, run=sent.run, function=sent.function, options=sent.options)
                job = again.jobs.add()
                job.CopyFrom(next(job for job in sent.jobs if job.index == result.index))
                job.attempt, job.kills = (result.attempt or 1) + 1, result.kills
                await self.publish(again)

    def _ended(self, run: str) -> dict[int, Result]:
        found: dict[int, Result] = {}
        for batch in self.batches:
            if batch.run == run:
                for result in batch.results:
                    if result.status != RETRY:
                        found.setdefault(result.index, result)
        return found

    async def answer(self, questions: Subscription) -> None:
        """Do what timekeeper does: tell workers that start what is cancelled."""
        while (question := await questions.get()) is not None:
            if self.cancelled is not None:
                await self.broker.broadcast(TOPIC_CANCELLED, f"{self.cancelled} {end_of_answer(question.payload)}")

    async def wait_settled(self, route: str = "default") -> None:
        """Wait until no message of a route waits and none is held by a worker that runs."""
        async with within():
            while (depth := await self.broker.depth(jobs_queue(route))).ready or depth.held:
                await asyncio.sleep(0.01)

    async def wait_empty(self, route: str = "default") -> None:
        """Wait until no message of a route is left, whether waiting or held by a worker that does not run now."""
        consumer = await self.broker.consume(jobs_queue(route), prefetch=1)
        async with consumer:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.15):
                    assert [delivery.message.headers for delivery in await consumer.receive()] == []


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    functions = tmp_path / "functions"
    functions.mkdir()
    async with (
        open_broker(f"sqlite:///{tmp_path}/queue.db", seal=a_fleet_key(tmp_path / "fleet.key")) as broker,
        await broker.consume(RESULTS, prefetch=1000) as results,
        await broker.subscribe([TOPIC_CANCELLED_WHICH]) as questions,
    ):
        made = Bench(broker, results, functions)
        answering = asyncio.create_task(made.answer(questions))
        yield made
        answering.cancel()


def value(result: Result) -> Any:
    assert result.status == SUCCEEDED, result
    return msgspec.json.decode(result.value)


def is_alive(pid: int) -> bool:
    """Whether a process runs; one that is dead and not waited for does not."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    return False
