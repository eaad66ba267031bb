"""The worker: consumes jobs, has them run, publishes their results, acks.

A delivery is acked when every result of it is confirmed by the broker; until then it is this worker's, and comes back
to the queue when the worker dies. So a job may run twice, and none is lost.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections import OrderedDict
from dataclasses import dataclass

import msgspec

from dts.broker import Broker, Consumer, Delivery, Message, Subscription
from dts.config import WorkerSettings
from dts.errors import ConfigError
from dts.runtime.service import Service
from dts.wire.queues import RESULTS, TOPIC_CANCELLED, jobs_queue
from dts.worker.child import ChildOptions
from dts.worker.events import EventCounter, Events
from dts.worker.executor import LOOK_AHEAD, Crash, Executor
from dts.worker.frames import Frame, Kind, knows_encoding
from dts.worker.process import Assignment
from dts.worker.publisher import Publisher
from dts.worker.recovery import recover
from dts.worker.settler import Settler

logger = logging.getLogger(__name__)

MAX_CANCELLED = 10_000
"""Cancelled runs that are remembered; the oldest are forgotten, their jobs have been passed over by then."""


@dataclass(slots=True, eq=False)
class Work:
    """A delivery in this worker. `open` counts what it still waits for: assignments to end, results to be confirmed."""

    delivery: Delivery
    consumer: Consumer
    run: str
    function: str
    open: int = 1
    settled: bool = False


class Worker(Service):
    """Serves the queues of its routes until it is stopped; a stop drains it first.

    Draining takes no more, gives back what no child has begun, lets children finish and publishes their results, for
    `drain_timeout` seconds at most, or until `hurry` is set. What is not done by then goes back to the queue.
    """

    def __init__(self, settings: WorkerSettings, broker: Broker, *, hurry: asyncio.Event | None = None) -> None:
        super().__init__()
        self.name = settings.name or f"{socket.gethostname()}-{os.getpid()}"
        self.events = EventCounter()
        processes = settings.processes or os.cpu_count() or 1
        options = ChildOptions(
            name=self.name,
            functions=settings.functions,
            concurrency=settings.concurrency,
            max_result=settings.max_result,
        )
        self.executor = Executor(options, processes, self)
        self._settings = settings
        self._broker = broker
        self._hurry = hurry or asyncio.Event()
        self._slots = processes * (1 + LOOK_AHEAD)
        self._works: set[Work] = set()
        self._room = asyncio.Event()
        self._cancelled: OrderedDict[str, None] = OrderedDict()
        self._consuming: list[asyncio.Task[None]] = []
        self._publisher: Publisher[Work] = Publisher(broker, RESULTS, self._close)
        self._settler = Settler()
        for part in (self.executor, self._publisher, self._settler):
            part.failed = self.failed  # the worker cannot do without any of them

    async def _start(self) -> None:
        if self._settings.functions and not os.path.isdir(self._settings.functions):  # noqa: ASYNC240 - before anything runs
            raise ConfigError(f"[worker.functions] {self._settings.functions!r} is not a directory")
        # Stopped in the reverse order: drain, then the consumers give back what is left, then the children end.
        for part in (self._publisher, self._settler, self.executor):
            await self._stack.enter_async_context(part)
        cancellations = await self._broker.subscribe([TOPIC_CANCELLED])
        await self._stack.enter_async_context(cancellations)
        self._spawn(self._learn_cancelled(cancellations), "cancellations")
        for route in self._settings.routes:
            consumer = await self._broker.consume(jobs_queue(route), prefetch=self._slots)
            await self._stack.enter_async_context(consumer)
            self._consuming.append(self._spawn(self._consume(consumer), f"consumer of {route}"))
        self._stack.push_async_callback(self._drain)
        logger.info(
            "worker %s: routes %s, %d processes",
            self.name,
            " ".join(self._settings.routes),
            self.executor.processes,
        )

    # taking work

    async def _consume(self, consumer: Consumer) -> None:
        """Take deliveries as long as there are slots for them."""
        while True:
            while len(self._works) >= self._slots:
                self._room.clear()
                await self._room.wait()
            # Routes that receive at the same time may take more together than there are slots; prefetch bounds it.
            deliveries = await consumer.receive(self._slots - len(self._works))
            if not deliveries:
                return  # the broker was closed
            for delivery in deliveries:
                self._take(consumer, delivery)

    def _take(self, consumer: Consumer, delivery: Delivery) -> None:
        message = delivery.message
        headers = message.headers
        run, function = str(headers.get("run", "")), str(headers.get("function", ""))
        work = Work(delivery, consumer, run, function)
        self._works.add(work)
        if run in self._cancelled:
            self._settle(work)
        elif not knows_encoding(message.content_encoding):
            self._reject(work, f"unknown content encoding {message.content_encoding!r}")
        else:
            count = headers.get("count")
            self.events.add(function, Events.RECV, count if isinstance(count, int) else 1)
            self.executor.submit(Assignment(message.body, message.content_encoding, work))

    async def _learn_cancelled(self, cancellations: Subscription) -> None:
        while (event := await cancellations.get()) is not None:
            for run in event.payload.split():
                self._cancelled[run] = None
            while len(self._cancelled) > MAX_CANCELLED:
                self._cancelled.popitem(last=False)

    # what becomes of it: the executor's listener

    def on_results(self, assignment: Assignment, frame: Frame) -> None:
        """Publish results on their way from a child."""
        work = _work_of(assignment)
        if frame.kind != Kind.RUNNING:
            self.events.add(work.function, Events.DONE, frame.jobs - frame.failed)
            self.events.add(work.function, Events.FAIL, frame.failed)
        self._publish(work, frame.body, frame.content_encoding, frame.jobs)

    def on_done(self, assignment: Assignment) -> None:
        """An assignment is finished, though its results may not be confirmed yet."""
        self._close(_work_of(assignment))

    def on_dead(self, assignment: Assignment, reason: str) -> None:
        """Send a message that no child can read to the dead letters."""
        self._reject(_work_of(assignment), reason)

    def on_crash(self, assignment: Assignment, crash: Crash) -> None:
        """A child died: its job has failed, the others run again."""
        work = _work_of(assignment)
        recovery = recover(assignment, crash, self.name)
        logger.error(
            "a child %s at a message of %s, run %s: %d jobs failed",
            crash.said,
            *(work.function, work.run, recovery.failed),
        )
        if recovery.dead:
            self._reject(work, recovery.dead)
            return
        if recovery.part is not None:
            self.events.add(work.function, Events.FAIL, recovery.failed)
            self._publish(work, *recovery.part, recovery.failed)
        work.open += len(recovery.again)
        for part in recovery.again:
            self.executor.submit(part)
        self._close(work)

    def _publish(self, work: Work, body: bytes, content_encoding: str, jobs: int) -> None:
        headers = {
            "block": work.delivery.message.headers.get("block", ""),
            "run": work.run,
            "function": work.function,
            "count": jobs,
        }
        work.open += 1
        self._publisher.put(Message(body, content_encoding, headers), work)

    # settling

    def _close(self, work: Work) -> None:
        """One thing that a delivery waits for is there; after the last one it is acked."""
        work.open -= 1
        if work.open == 0:
            self._settle(work)

    def _settle(self, work: Work) -> None:
        if not work.settled:
            self._settler.ack(work.consumer, work.delivery)
            self._let_go(work)

    def _reject(self, work: Work, reason: str) -> None:
        if not work.settled:
            logger.error("a message of %s goes to the dead letters: %s", work.function or "no function", reason)
            self._settler.reject(work.consumer, work.delivery, reason)
            self._let_go(work)

    def _let_go(self, work: Work) -> None:
        work.settled = True
        self._works.discard(work)
        self._room.set()

    # the end

    async def _drain(self) -> None:
        """Take no more and finish what is begun, as far as time allows."""
        for task in self._consuming:
            task.cancel()
        await asyncio.gather(*self._consuming, return_exceptions=True)
        finishing = asyncio.create_task(self._finish(), name="drain")
        hurry = asyncio.create_task(self._hurry.wait(), name="hurry")
        try:
            done, _ = await asyncio.wait(
                (finishing, hurry),
                timeout=self._settings.drain_timeout,
                return_when=asyncio.FIRST_COMPLETED,
            )
        finally:
            finishing.cancel()
            hurry.cancel()
        if finishing in done:
            finishing.result()
        else:
            logger.warning("not drained: %d messages go back to the queue", len(self._works))

    async def _finish(self) -> None:
        await self._give_back(self.executor.take_back())
        await self.executor.wait_idle()
        await self._publisher.wait_idle()
        await self._settler.wait_idle()

    async def _give_back(self, assignments: list[Assignment]) -> None:
        """Give back the deliveries that nothing has been done for; of others, finish what a crash has left."""
        for assignment in assignments:
            work = _work_of(assignment)
            if work.open == 1 and not work.settled:
                self._settler.nack(work.consumer, work.delivery)
                self._let_go(work)
            else:
                self.executor.submit(assignment)


class InternationalWorker(Worker):
    """A worker of the route `international` alone."""

    def __init__(self, settings: WorkerSettings, broker: Broker, *, hurry: asyncio.Event | None = None) -> None:
        super().__init__(msgspec.structs.replace(settings, routes=("international",)), broker, hurry=hurry)


def _work_of(assignment: Assignment) -> Work:
    assert isinstance(assignment.owner, Work)
    return assignment.owner
