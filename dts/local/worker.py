"""A worker of this process's own, with a queue in a temporary folder: it runs jobs as any other, without a server."""

from __future__ import annotations

import asyncio
import os
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress

from dts.broker import Broker, Consumer, Message, open_broker, origin
from dts.config import WorkerSettings
from dts.errors import DtsError, TooLarge, WireError
from dts.model import DEFAULT_ROUTE
from dts.runtime.tasks import end_tasks, wait_first
from dts.wire import codec
from dts.wire.dts_pb2 import FAILED, RETRY, Error, JobBatch, Result, ResultBatch
from dts.wire.queues import DEAD, RESULTS, jobs_queue
from dts.worker.worker import Worker

Part = tuple[ResultBatch, list[Result]]
"""Results that came together, and those among them that ended their jobs."""


class LocalWorker:
    """Runs messages. The next attempt at a job follows at once, however long it would have to wait elsewhere."""

    def __init__(self, worker: Worker, broker: Broker, results: Consumer, dead: Consumer) -> None:
        self._worker, self._broker, self._results, self._dead = worker, broker, results, dead

    async def run(self, batches: Sequence[tuple[int, JobBatch]]) -> list[Part]:
        """Run messages, each of a block of its own; returns what came of all their jobs.

        Each has the number that its job 0 has in the run.

        Raises:
            DtsError: the worker cannot go on.
        """
        for number, batch in batches:
            await self._publish(number, batch)
        by_block = {batch.block: (number, batch) for number, batch in batches}
        collecting = asyncio.create_task(self._collect(by_block))
        burying = asyncio.create_task(self._bury(by_block))
        try:
            await wait_first(collecting, burying, self._worker.failed)
            if not collecting.done():
                if burying.done():
                    burying.result()
                raise DtsError("the worker that runs the function has failed: its log says why")
            return collecting.result()
        finally:
            await end_tasks([collecting, burying])

    async def _publish(self, number: int, batch: JobBatch) -> None:
        headers: dict[str, str | int] = {
            "block": batch.block,
            "run": batch.run,
            "function": batch.function,
            "count": len(batch.jobs),
            "number": number,
        }
        await self._broker.publish(jobs_queue(DEFAULT_ROUTE), [Message(*codec.encode(batch), headers)])

    async def _collect(self, batches: dict[str, tuple[int, JobBatch]]) -> list[Part]:
        """Wait until each job of the batches has ended, and give those another attempt that are worth one."""
        parts: list[Part] = []
        waiting = {(batch.block, job.index) for _, batch in batches.values() for job in batch.jobs}
        while waiting:
            deliveries = await self._results.receive(100)
            for delivery in deliveries:
                part = codec.decode(ResultBatch, delivery.message.body, delivery.message.content_encoding)
                if part.block not in batches:
                    continue  # told again of an earlier message, whose jobs have ended
                (number, batch), ended = batches[part.block], []
                for result in part.results:
                    if result.status != RETRY and (part.block, result.index) in waiting:
                        waiting.discard((part.block, result.index))
                        ended.append(result)
                parts.append((part, ended))
                if again := _next_attempts(batch, part):
                    await self._publish(number, again)
            await self._results.ack(deliveries)
        return parts

    async def _bury(self, batches: dict[str, tuple[int, JobBatch]]) -> None:
        """Report the jobs of dead letters as failed, until this is cancelled: no worker runs them any more."""
        while True:
            letters = await self._dead.receive(100)
            for letter in letters:
                if found := batches.get(str(letter.message.headers.get("block", ""))):
                    part = _failed(letter.message, found[1])
                    await self._broker.publish(RESULTS, [Message(*codec.encode(part), {})])
            await self._dead.ack(letters)


def _failed(letter: Message, batch: JobBatch) -> ResultBatch:
    """That the jobs of a dead letter have failed; of one that cannot be read, all jobs of its block."""
    with suppress(WireError, TooLarge):
        batch = codec.decode(JobBatch, letter.body, letter.content_encoding)
    came = origin(letter)
    why = came.reason if came is not None and came.reason else "it was handed out too often"
    error = Error(type="Poison", message=f"no process could run the job: {why}", reason="poison")
    part = ResultBatch(block=batch.block, run=batch.run, function=batch.function, started=time.time())
    for job in batch.jobs:
        part.results.add(index=job.index, status=FAILED, error=error, attempt=job.attempt)
    return part


def _next_attempts(batch: JobBatch, part: ResultBatch) -> JobBatch | None:
    """A message with the next attempt at the jobs that are worth one; None if none is."""
    again = JobBatch(block=batch.block, run=batch.run, function=batch.function, options=batch.options)
    jobs = {job.index: job for job in batch.jobs}
    for result in part.results:
        if result.status == RETRY:
            job = again.jobs.add()
            job.CopyFrom(jobs[result.index])
            job.attempt, job.kills = (result.attempt or 1) + 1, result.kills
    return again if again.jobs else None


def _folder(functions: str | os.PathLike[str]) -> str:
    """The functions directory as a worker's settings name it; empty, for the bundled ones alone, if it is not there."""
    return os.path.abspath(functions) if os.path.isdir(functions) else ""


@asynccontextmanager
async def open_local_worker(functions: str | os.PathLike[str], *, processes: int = 1) -> AsyncIterator[LocalWorker]:
    """A worker for the functions in a directory and those that come with DTS; `processes` of 0: one for each CPU."""
    with tempfile.TemporaryDirectory(prefix="dts-local-") as folder:
        settings = WorkerSettings(
            name="local",
            processes=processes,
            functions=_folder(functions),
            versions=os.path.join(folder, "versions"),
            timekeeper_timeout=0.0,  # there is none
        )
        async with (
            open_broker(f"sqlite:///{folder}/queue.db") as broker,
            await broker.consume(RESULTS, prefetch=1000) as results,
            await broker.consume(DEAD, prefetch=1000) as dead,
            Worker(settings, broker) as worker,
        ):
            yield LocalWorker(worker, broker, results, dead)
