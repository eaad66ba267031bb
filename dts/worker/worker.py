"""The worker: consumes jobs, has them run, publishes their results, acks.

A delivery is acked when every result of it is confirmed by the broker; until then it is this worker's, and comes back
to the queue when the worker dies. So a job may run twice, and none is lost.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import Callable
from functools import partial

from msgspec.structs import replace

from dts.broker import Broker, Consumer, Delivery, Message, open_broker
from dts.config import WorkerSettings
from dts.errors import ConfigError
from dts.runtime.service import Service
from dts.wire.queues import RESULTS
from dts.worker.events import EventCounter, Events
from dts.worker.link.frames import Frame, Kind, knows_encoding
from dts.worker.link.options import ChildOptions
from dts.worker.pool.child_process import Assignment
from dts.worker.pool.crash import Crash
from dts.worker.pool.executor import Executor
from dts.worker.pool.limits import Guard
from dts.worker.pool.recovery import Recoverer, note_progress
from dts.worker.queues.cancellation_sync import Inquiry
from dts.worker.queues.consumers import Intakes
from dts.worker.queues.in_flight import Work, take, work_of
from dts.worker.queues.isolate import break_up
from dts.worker.queues.pacer import Pacer
from dts.worker.queues.publisher import Publisher
from dts.worker.queues.routes import Routes
from dts.worker.queues.settler import Settler

logger = logging.getLogger(__name__)

_OF_PARENT = (
    *("name", "processes", "routes", "route", "drain_timeout", "poison_after"),
    *("heartbeat", "min_memory_percent", "min_disk_percent", "log_files"),
    "timekeeper_timeout",
)
"""Settings that make no difference to children."""

_CHOOSING = 0.02  # seconds after which a child that was choosing its next work has surely chosen


class Worker(Service):
    """Serves the queues of its routes until it is stopped; a stop drains it first.

    Draining takes no more, gives back what no child has begun, lets children finish and publishes their results, for
    `drain_timeout` seconds at most, or until `hurry` is set. What is not done by then goes back to the queue.
    """

    def __init__(
        self,
        settings: WorkerSettings,
        broker: Broker,
        *,
        hurry: asyncio.Event | None = None,
        open_broker: Callable[[str], Broker] = open_broker,
    ) -> None:
        super().__init__()
        self.name = settings.name or f"{socket.gethostname()}-{os.getpid()}"
        self.events = EventCounter()
        self.draining = False
        processes = _processes(settings)
        self.executor = Executor(ChildOptions(self.name, settings), processes, self)
        self.settings = settings
        self.short_of = ""
        """What the machine has too little of to take more work: memory or disk; empty for nothing."""
        self.routes = Routes(settings, broker, open_broker)
        self._broker = broker
        self._hurry = hurry or asyncio.Event()
        self._works: set[Work] = set()
        self.room = asyncio.Event()
        """Set when there may be room for more work."""
        self._inquiry = Inquiry(broker, settings.timekeeper_timeout, self._learn_cancelled, self._follow_halt)
        self._cancelled = self._inquiry.known
        self._intakes = Intakes(self.routes, processes, self, paused=True)
        self._pacer = Pacer(self.executor, self._intakes, self)
        self._publisher = Publisher(broker)
        self._settler = Settler()
        self._recoverer = Recoverer(self.name, settings)
        self._guard = Guard(self.executor)
        self._on_log: Callable[[bytes], None] = lambda record: None
        self._parts = (
            *(self._publisher, self._settler, self.executor, self._guard),
            *(self._inquiry, self.routes, self._intakes, self._pacer),
        )
        for part in self._parts:
            part.failed = self.failed  # the worker cannot do without any of them

    async def _start(self) -> None:
        _check(self.settings)
        # Stopped in the reverse order: drain, then the consumers give back what is left, then the children end.
        for part in self._parts:
            await self._stack.enter_async_context(part)
        self._stack.push_async_callback(self._drain)
        logger.info(
            "worker %s: routes %s, %d processes", self.name, " ".join(self.routes.names), self.executor.processes
        )

    # what others may ask of it

    async def adopt(self, settings: WorkerSettings) -> None:
        """Use other settings, all but the name, for what begins from here on. Children are replaced when they are idle.

        Raises:
            ConfigError: they cannot work; all stays as it was.
        """
        _check(settings)
        processes = _processes(settings)
        await self._intakes.adopt(settings, processes)
        before, self.settings = self.settings, settings
        self._recoverer = Recoverer(self.name, settings)
        self._inquiry.patience = settings.timekeeper_timeout
        if _of_children(before) != _of_children(settings):
            self.executor.renew(ChildOptions(self.name, settings))
        if processes != self.executor.processes:
            self.executor.resize(processes)
        self.room.set()

    async def hold(self, short_of: str) -> None:
        """Take nothing new while the machine is short of something, and give back what is not begun; empty to go on."""
        self.short_of = short_of
        await self._follow_halt()

    def send_logs_to(self, on_log: Callable[[bytes], None]) -> None:
        """Hand encoded log records of functions to somebody."""
        self._on_log = on_log

    @property
    def idle(self) -> bool:
        """Whether no delivery is in its hands."""
        return not self._works

    # taking work

    @property
    def halted(self) -> bool:
        """Whether nothing may be taken: the machine is short of something, or what was cancelled may not be known."""
        return bool(self.short_of) or not self._inquiry.informed

    async def _follow_halt(self) -> None:
        """Fetch nothing while nothing may be taken, and give back what is not begun; go on afterwards.

        What came before the events of a broker that is away may have been cancelled since, and comes again anyway.
        """
        if self.halted:
            await self._intakes.pause()
            await self._give_back(self.executor.take_back())
        else:
            await self._intakes.resume()
            self.room.set()

    @property
    def free_slots(self) -> int:
        """How many deliveries may be taken: messages that run beside others take no slot."""
        return 0 if self.halted else self.executor.capacity - len(self._works)

    @property
    def taken(self) -> int:
        """How many deliveries it has taken and is not done with."""
        return len(self._works)

    def in_hand(self, consumers: set[Consumer]) -> int:
        """Deliveries of some consumers that are not settled."""
        return sum([not (work.settled or work.leaving) and work.consumer in consumers for work in self._works])

    def is_at(self, consumer: Consumer) -> bool:
        """Whether there is anything left to do for a delivery of a consumer, or to tell its broker."""
        return self._settler.is_at(consumer) or any(work.consumer is consumer for work in self._works)

    def take(self, consumer: Consumer, deliveries: list[Delivery]) -> None:
        """Have the jobs of deliveries run."""
        for delivery in deliveries:
            if self.halted:  # since they were asked for
                self._settler.release(consumer, delivery)
            else:
                self._take(consumer, delivery)

    def _take(self, consumer: Consumer, delivery: Delivery) -> None:
        message = delivery.message
        work = take(delivery, consumer)
        self._works.add(work)
        if self._cancelled.has_run(work.run):
            self._close(work)
        elif not knows_encoding(message.content_encoding):
            self._reject(work, f"unknown content encoding {message.content_encoding!r}")
        elif delivery.count and (singles := break_up(work)):
            logger.warning("a message of %s came back %d times: one job at a time", work.function, delivery.count)
            for single in singles:
                self._give_away(work, single)
            self._close(work)
        else:
            count = message.headers.get("count")
            work.received = count if isinstance(count, int) else 1
            self.events.add(work.function, Events.RECV, work.received)
            whole = Assignment(message.body, message.content_encoding, work, number=work.number, function=work.function)
            self._submit(whole)

    def _submit(self, assignment: Assignment) -> None:
        """Have an assignment run, without jobs that were cancelled."""
        work = work_of(assignment)
        if self._cancelled.concerns(work.run):
            sifted = self._cancelled.sift(work.run, assignment)
            if sifted is None:
                return self._close(work)
            assignment = sifted
        self.executor.submit(assignment)

    def _learn_cancelled(self, runs: set[str]) -> None:
        if any(work.run in runs for work in self._works):
            self._stop_cancelled(runs)

    def _stop_cancelled(self, runs: set[str]) -> None:
        """Stop what has been cancelled of some runs."""
        for assignment in self.executor.take_back():
            self._submit(assignment)
        missed = False
        for child in self.executor.children:
            at_work = child.at_work
            for assignment in list(child.given):
                run = work_of(assignment).run
                if run not in runs:
                    continue
                whole, found = self._cancelled.has_run(run), self._cancelled.positions(run, assignment)[0]
                if not whole and not found:
                    continue
                if assignment in at_work:
                    child.stop(assignment, None if whole else found, self.settings.cancel_grace)
                else:  # the child was choosing at this instant
                    missed = True
        if missed:
            asyncio.get_running_loop().call_later(_CHOOSING, self._stop_cancelled, runs)

    # what becomes of it: the executor's listener

    def on_results(self, assignment: Assignment, frame: Frame) -> None:
        """Publish results on their way from a child."""
        work = work_of(assignment)
        if frame.kind != Kind.RUNNING:
            self.events.add(work.function, Events.DONE, frame.jobs - frame.failed)
            self.events.add(work.function, Events.FAIL, frame.failed)
        else:
            note_progress(assignment.told, frame)
        self._publish(work, Message(frame.body, frame.content_encoding, work.headers(frame.jobs)))

    def on_done(self, assignment: Assignment) -> None:
        """An assignment is finished, though its results may not be confirmed yet."""
        self._close(work_of(assignment))

    def on_dead(self, assignment: Assignment, reason: str) -> None:
        """Send a message that no child can read to the dead letters."""
        self._reject(work_of(assignment), reason)

    def on_given(self, assignment: Assignment, frame: Frame) -> None:
        """Publish jobs that a child has not begun and others may do sooner."""
        work = work_of(assignment)
        self._uncount(work, frame.jobs)
        self._give_away(work, Message(frame.body, frame.content_encoding, work.headers_of_part(frame.jobs)))

    def on_begun(self, assignment: Assignment) -> None:
        """There is room for more work, beside what has begun."""
        run = work_of(assignment).run
        if self._cancelled.concerns(run):  # told before it was known where the child has put the jobs
            self._stop_cancelled({run})
        self.room.set()
        if self.free_slots > 0:
            self._intakes.look()

    def on_claim(self, assignment: Assignment, frame: Frame, go: Callable[[], None]) -> None:
        """Publish a lease; once it is on record the delivery needs no longer be held, and the jobs may begin."""
        work = work_of(assignment)
        work.open += 1
        message = Message(frame.body, frame.content_encoding, work.headers(frame.jobs))
        self._publisher.put(RESULTS, message, partial(self._on_claimed, work, go))

    def on_ready(self) -> None:
        """There is room for more work, by a child more."""
        self.room.set()
        self._pacer.wake()

    def on_replaced(self, function: str) -> None:
        """A child was replaced after jobs of a function."""
        self.events.add(function, Events.REPLACED, 1)

    def on_log(self, frame: Frame) -> None:
        """Pass on what a function has logged."""
        self._on_log(frame.body)

    def on_crash(self, assignment: Assignment, crash: Crash) -> None:
        """A child died: its job comes back or has failed, the others run again."""
        work = work_of(assignment)
        work.begun = True
        recovery = self._recoverer.recover(assignment, crash)
        logger.warning("a child %s at a message of %s, run %s: %s", crash.said, work.function, work.run, recovery)
        if recovery.dead:
            self._reject(work, recovery.dead)
            return
        if recovery.part is not None:
            self.events.add(work.function, Events.FAIL, recovery.results)
            self._publish(work, Message(*recovery.part, work.headers(recovery.results)))
        work.open += len(recovery.again)
        for part in recovery.again:
            self._submit(part)
        self._close(work)

    def _publish(self, work: Work, message: Message) -> None:
        work.open += 1
        self._publisher.put(RESULTS, message, partial(self._close, work))

    def _give_away(self, work: Work, message: Message) -> None:
        work.open += 1
        publisher = self.routes.publisher(work.consumer) or self._publisher
        publisher.put(work.delivery.queue, message, partial(self._close, work))

    def _on_claimed(self, work: Work, go: Callable[[], None]) -> None:
        if not work.settled:
            work.settled = True
            self._settler.ack(work.consumer, work.delivery)
        go()
        self._close(work)

    # settling

    def _close(self, work: Work) -> None:
        """One thing that a delivery waits for is there; after the last one it is acked."""
        work.open -= 1
        if work.open == 0 and not work.closed:
            if not work.settled:
                self._settler.ack(work.consumer, work.delivery)
            self._let_go(work)

    def _reject(self, work: Work, reason: str) -> None:
        if work.closed:
            return
        logger.error("a message of %s goes to the dead letters: %s", work.function or "no function", reason)
        if not work.settled:
            self._settler.reject(work.consumer, work.delivery, reason)
        self._let_go(work)

    def _let_go(self, work: Work) -> None:
        work.settled = work.closed = True
        self._works.discard(work)
        self.room.set()
        self._pacer.wake()

    # the end

    async def _drain(self) -> None:
        """Take no more and finish what is begun, as far as time allows."""
        self.draining = True
        await self._intakes.cease()
        finishing = asyncio.create_task(self._finish(), name="drain")
        hurry = asyncio.create_task(self._hurry.wait(), name="hurry")
        try:
            done, _ = await asyncio.wait(
                (finishing, hurry),
                timeout=self.settings.drain_timeout,
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
        for publisher in (self._publisher, *self.routes.publishers):
            await publisher.wait_idle()
        await self._settler.wait_idle()

    async def _give_back(self, assignments: list[Assignment]) -> None:
        """Give back the deliveries that nothing has been done for; of others, finish what a crash has left."""
        self.release(self.part_with([each for each in assignments if self.is_untouched(each)]))
        for assignment in assignments:
            if not work_of(assignment).leaving:
                self.executor.submit(assignment)

    def is_untouched(self, assignment: Assignment) -> bool:
        """Whether it is all of a delivery of which nothing was begun."""
        work = work_of(assignment)
        return work.open == 1 and not (work.settled or work.begun)

    def part_with(self, assignments: list[Assignment]) -> list[Work]:
        """Count deliveries no more that are given back."""
        works = [work_of(assignment) for assignment in assignments]
        for work in works:
            work.leaving = True
            self._uncount(work, work.received)
        return works

    def _uncount(self, work: Work, jobs: int) -> None:
        """Count jobs no more as received, as somebody else is to run them."""
        jobs = min(jobs, work.received)
        work.received -= jobs
        self.events.add(work.function, Events.RECV, -jobs)

    def release(self, works: list[Work]) -> None:
        """Give back deliveries."""
        for work in works:
            self._settler.release(work.consumer, work.delivery)
            self._let_go(work)


class InternationalWorker(Worker):
    """A worker of the route `international` alone."""

    def __init__(
        self,
        settings: WorkerSettings,
        broker: Broker,
        *,
        hurry: asyncio.Event | None = None,
        open_broker: Callable[[str], Broker] = open_broker,
    ) -> None:
        super().__init__(_international(settings), broker, hurry=hurry)

    async def adopt(self, settings: WorkerSettings) -> None:
        """Use other settings, but those of its route."""
        await super().adopt(_international(settings))


def _international(settings: WorkerSettings) -> WorkerSettings:
    own = tuple(route for route in settings.route if route.name == "international")
    return replace(settings, routes=() if own else ("international",), route=own)


def _processes(settings: WorkerSettings) -> int:
    return settings.processes or os.cpu_count() or 1


def _check(settings: WorkerSettings) -> None:
    if settings.functions and not os.path.isdir(settings.functions):
        raise ConfigError(f"[worker.functions] {settings.functions!r} is not a directory")


def _of_children(settings: WorkerSettings) -> WorkerSettings:
    """Settings with all at its default that children do not look at."""
    default = WorkerSettings()
    return replace(settings, **{name: getattr(default, name) for name in _OF_PARENT})
