"""Runs the jobs of plugins: the server is the worker of its own route.

A plugin's job takes the way of every job, through the store and the broker, so that one which a dying server leaves
unfinished comes to another server. It is acked when its end is on record.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import time
import traceback
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import TypeVar

import msgspec

from dts.broker import Consumer, Delivery
from dts.errors import StoreUnavailable, TooLarge, WireError
from dts.model import Candidate, bitmap
from dts.runtime.log_throttle import OutageLog
from dts.runtime.logs import USER
from dts.runtime.service import Service
from dts.server import plugins
from dts.server.context import Context
from dts.server.record.blocks import jobs_of
from dts.version import __version__
from dts.wire import codec, dts_pb2
from dts.wire.queues import TOPIC_RESULTS, jobs_queue

T = TypeVar("T")

logger = logging.getLogger(__name__)

_AT_ONCE = 8
"""Messages of plugins' jobs that one server works on at a time."""

_RETRY = 1.0


class PluginRunner(Service):
    """Takes plugins' jobs off their queue, runs them, and records how they ended."""

    def __init__(self, context: Context) -> None:
        super().__init__()
        self._context = context
        self._outage = OutageLog(logger, 60.0)

    async def _start(self) -> None:
        consumer = await self._context.broker.consume(jobs_queue(plugins.ROUTE), prefetch=_AT_ONCE)
        self._stack.push_async_callback(consumer.close)
        for number in range(_AT_ONCE):
            self._spawn(self._work(consumer), f"plugins-{number}")

    async def _work(self, consumer: Consumer) -> None:
        while deliveries := await consumer.receive(1):
            for delivery in deliveries:
                try:
                    await self._run(delivery)
                except (WireError, TooLarge) as error:
                    await consumer.reject([delivery], str(error))
                else:
                    await consumer.ack([delivery])

    async def _run(self, delivery: Delivery) -> None:
        """Run those jobs of a message that are in the store and have not ended.

        Raises:
            WireError, TooLarge: it is about no jobs that an administrator has asked for.
        """
        message = delivery.message
        batch = codec.decode(dts_pb2.JobBatch, message.body, message.content_encoding)
        jobs = await self._asked_for(batch)
        results = dts_pb2.ResultBatch(
            block=batch.block,
            run=batch.run,
            function=batch.function,
            worker=f"server-{socket.gethostname()}",
            version=__version__,
            started=time.time(),
        )
        outcome = await self._retry_until_available(partial(self._context.store.get_outcome, batch.block))
        unfinished = outcome.unfinished if outcome is not None else 0  # cancelled, or done by a server that died
        for index in {job.index for job in batch.jobs}:
            if unfinished >> index & 1 and index in jobs:
                await self._run_job(batch.function, jobs[index], results)
        if results.results:
            await self._retry_until_available(partial(self._context.store.record, [_candidate(results)]))
            await self._context.broker.broadcast(TOPIC_RESULTS, batch.run)

    async def _asked_for(self, batch: dts_pb2.JobBatch) -> Mapping[int, dts_pb2.Job]:
        """The jobs of a batch's block by index, as they are in the store: a message gives no orders by itself.

        Raises:
            WireError: the store has no such block, or its user is no administrator, any more or at all.
        """
        store = self._context.store
        block = await self._retry_until_available(partial(store.get_block, batch.block))
        if block is None or (block.run, block.function) != (batch.run, batch.function):
            raise WireError(f"nobody has asked for block {batch.block} of {batch.function} in run {batch.run}")
        run = await self._retry_until_available(partial(store.get_run, block.run))
        user = await self._retry_until_available(partial(store.get_user, run.user)) if run is not None else None
        if user is None or not user.is_administrator:
            who = run.user if run is not None else "nobody"
            raise WireError(f"{block.function} runs inside the server: for administrators only, and it was {who}")
        stored = await self._retry_until_available(partial(jobs_of, store, block))
        USER.set(user.id)  # who the plugin, and the log, take for the operator
        return {job.index: job for job in stored.jobs}

    async def _run_job(self, name: str, job: dts_pb2.Job, results: dts_pb2.ResultBatch) -> None:
        """Run one job and add its result; whatever the plugin raises is the job's failure, not the server's."""
        began = time.time()
        result = results.results.add(index=job.index, offset=began - results.started, attempt=job.attempt)
        try:
            args = msgspec.json.decode(job.args or b"[]")
            kwargs = msgspec.json.decode(job.kwargs or b"{}")
            value = await plugins.load(name)(self._context, *args, **kwargs)
            result.value = msgspec.json.encode(value)
            result.status = dts_pb2.SUCCEEDED
        except Exception as error:  # noqa: BLE001  whatever it is, it is the job's
            result.status = dts_pb2.FAILED
            result.error.type = type(error).__name__
            result.error.message = str(error)
            result.error.traceback = "".join(traceback.format_exception(error))
            logger.warning("%s failed: %s", name, error)
        result.duration = time.time() - began

    async def _retry_until_available(self, operation: Callable[[], Awaitable[T]]) -> T:
        """Do what is safe to repeat, again until the store is there."""
        while True:
            try:
                result = await operation()
            except StoreUnavailable as error:
                self._outage.failed("cannot record what a plugin did now, trying again until it works: %s", error)
                await asyncio.sleep(_RETRY)
            else:
                self._outage.worked("can record what plugins do again")
                return result


def _candidate(results: dts_pb2.ResultBatch) -> Candidate:
    body, content_encoding = codec.encode(results)
    ended = {
        status: bitmap.from_indices(result.index for result in results.results if result.status == status)
        for status in (dts_pb2.SUCCEEDED, dts_pb2.FAILED)
    }
    return Candidate(
        results.block,
        body,
        content_encoding,
        succeeded=ended[dts_pb2.SUCCEEDED],
        failed=ended[dts_pb2.FAILED],
        function=results.function,
    )
