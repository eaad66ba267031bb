"""A worker of this process's own, with a queue in a temporary folder: it runs jobs as any other, without a server."""

from __future__ import annotations

import asyncio
import os
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from dts.broker import Broker, Consumer, Message, open_broker
from dts.config import WorkerSettings
from dts.errors import DtsError
from dts.model import DEFAULT_ROUTE
from dts.runtime.tasks import wait_first
from dts.wire import codec
from dts.wire.dts_pb2 import RETRY, JobBatch, Result, ResultBatch
from dts.wire.queues import RESULTS, jobs_queue
from dts.worker.worker import Worker

Part = tuple[ResultBatch, list[Result]]
"""Results that came together, and those among them that ended their jobs."""


class LocalWorker:
    """Runs messages. The next attempt at a job follows at once, however long it would have to wait elsewhere."""

    def __init__(self, worker: Worker, broker: Broker, results: Consumer) -> None:
        self._worker, self._broker, self._results = worker, broker, results

    async def run(self, batches: Sequence[tuple[int, JobBatch]]) -> list[Part]:
        """Run messages, each of a block of its own; returns what came of all their jobs.

        Each has the number that its job 0 has in the run.

        Raises:
            DtsError: the worker cannot go on.
        """
        for number, batch in batches:
            await self._publish(number, batch)
        collecting = asyncio.create_task(self._collect({batch.block: (number, batch) for number, batch in batches}))
        try:
            await wait_first(collecting, self._worker.failed)
            if not collecting.done():
                raise DtsError("the worker that runs the function has failed: its log says why")
            return collecting.result()
        finally:
            collecting.cancel()

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
            Worker(settings, broker) as worker,
        ):
            yield LocalWorker(worker, broker, results)
