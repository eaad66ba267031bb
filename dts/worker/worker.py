"""The worker: takes messages off the queues, has children run their jobs, publishes the results, then acks.

    consumers ─▶ Worker.take ─▶ Executor.submit ─▶ a child ─▶ Worker.on_… ─▶ Deliveries ─▶ publisher, settler

A delivery is acked when the broker has confirmed all its results; until then the worker holds it, and it comes back to
the queue when the worker dies. So a job may run twice, and none is lost.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import Callable
from pathlib import Path

from msgspec.structs import replace

from dts.broker import Broker, Consumer, Delivery, Message, open_broker
from dts.config import WorkerSettings
from dts.errors import ConfigError
from dts.runtime.service import Service
from dts.runtime.tasks import end_tasks, wait_first
from dts.wire.seal import Seal
from dts.worker.events import EventCounter, Events
from dts.worker.link.frames import Frame, Kind, knows_encoding
from dts.worker.link.options import ChildOptions
from dts.worker.pool.child_process import Assignment
from dts.worker.pool.crash import Crash
from dts.worker.pool.executor import Executor
from dts.worker.pool.limits import Guard
from dts.worker.pool.recovery import Recoverer, note_progress
from dts.worker.queues.cancellation_sync import CancellationSync
from dts.worker.queues.cancellations import stop_cancelled
from dts.worker.queues.consumers import Consumers
from dts.worker.queues.deliveries import Deliveries
from dts.worker.queues.in_flight import InFlight, in_flight
from dts.worker.queues.isolate import isolate
from dts.worker.queues.pacer import Pacer
from dts.worker.queues.publisher import Publisher
from dts.worker.queues.routes import Routes
from dts.worker.queues.secrets import SecretOpener
from dts.worker.queues.settler import Settler
from dts.worker.versions.library import Fetcher, VersionLibrary

logger = logging.getLogger(__name__)

_OF_PARENT = (
    *("name", "processes", "routes", "route", "drain_timeout", "poison_after"),
    *("heartbeat", "min_memory_percent", "min_disk_percent", "log_files"),
    *("timekeeper_timeout", "warm_children", "server_url", "server_ca", "installer_options"),
)
"""Settings that make no difference to children, and are not sent to them: broker URLs are among them."""

_MOST_WAITING = 100
"""Messages that may wait here for versions of functions and leave their slots to others."""

_CHOOSING = 0.02  # seconds after which a child that was choosing its next work has surely chosen


class Worker(Service):
    """Serves the queues of its routes until it is stopped; a stop drains it first.

    Draining takes no more, gives back what no child has begun, lets children finish and publishes their results, for
    `drain_timeout` seconds at most, or until `hurry` is set. What is not done by then goes back to the queue.

    A message comes in by `take` and leaves by `Deliveries`. An error while it is handled costs that message alone.
    """

    def __init__(
        self,
        settings: WorkerSettings,
        broker: Broker,
        *,
        hurry: asyncio.Event | None = None,
        open_broker: Callable[[str], Broker] = open_broker,
        fetcher: Fetcher | None = None,
        seal: Seal | None = None,
    ) -> None:
        super().__init__()
        self.name = settings.name or f"{socket.gethostname()}-{os.getpid()}"
        self.events = EventCounter()
        self.draining = False
        self.settings = settings
        self.short_of = ""
        """What the machine has too little of to take more work: memory or disk; empty for nothing."""
        self.room = asyncio.Event()
        """Set when there may be room for more work."""
        processes = _processes(settings)
        self.executor = Executor(ChildOptions(self.name, _of_children(settings)), processes, self)
        self.executor.keep_warm(settings)
        self.routes = Routes(settings, broker, open_broker)
        self._hurry = hurry or asyncio.Event()
        self._secrets = SecretOpener(seal)
        self._sync = CancellationSync(broker, settings.timekeeper_timeout, self._on_cancelled, self._follow_halt)
        self._cancelled = self._sync.known
        self._consumers = Consumers(self.routes, processes, self, paused=True)
        self._pacer = Pacer(self.executor, self._consumers, self)
        publisher, settler = Publisher(broker), Settler()
        self.deliveries = Deliveries(self.routes, publisher, settler, self.events, self._on_settled)
        versions = Path(settings.versions).absolute()
        self.versions: VersionLibrary[Assignment] = VersionLibrary(versions, fetcher, settings.installer_options)
        self._recoverer = Recoverer(self.name, settings)
        self._on_log: Callable[[bytes], None] = lambda record: None
        self._parts = (
            *(publisher, settler, self.executor, Guard(self.executor), self.versions),
            *(self._sync, self.routes, self._consumers, self._pacer),
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

    async def adopt(self, settings: WorkerSettings) -> None:
        """Use other settings, all but the name, for what begins from here on. Children are replaced when they are idle.

        Raises:
            ConfigError: they cannot work; all stays as it was.
        """
        _check(settings)
        processes = _processes(settings)
        await self._consumers.adopt(settings, processes)
        before, self.settings = self.settings, settings
        self._recoverer = Recoverer(self.name, settings)
        self._sync.patience = settings.timekeeper_timeout
        self.executor.keep_warm(settings)
        if _of_children(before) != _of_children(settings):
            self.executor.renew(ChildOptions(self.name, _of_children(settings)))
        if processes != self.executor.processes:
            self.executor.resize(processes)
        self.room.set()

    def send_logs_to(self, on_log: Callable[[bytes], None]) -> None:
        """Hand on encoded log records of functions from here on."""
        self._on_log = on_log

    @property
    def idle(self) -> bool:
        """Whether it holds no delivery."""
        return not self.deliveries

    # when it takes work

    async def set_shortage(self, short_of: str) -> None:
        """Take nothing new while the machine is short of something, and give back what is not begun; empty to go on."""
        self.short_of = short_of
        await self._follow_halt()

    @property
    def halted(self) -> bool:
        """Whether nothing may be taken: the machine is short of something, or what was cancelled may not be known."""
        return bool(self.short_of) or not self._sync.informed

    async def _follow_halt(self) -> None:
        """Fetch nothing while nothing may be taken, and give back what is not begun; go on afterwards.

        What came before the events of a broker that is away may have been cancelled since, and comes again anyway.
        """
        if self.halted:
            await self._consumers.pause()
            await self._give_back(self._take_back())
        else:
            await self._consumers.resume()
            self.room.set()

    async def fetch_anew(self) -> None:
        """Close all consumers and open others."""
        await self._consumers.pause()
        await self._follow_halt()

    @property
    def free_slots(self) -> int:
        """How many deliveries may be taken: messages that run beside others take no slot, nor do some that wait."""
        waiting = min(self.versions.waiting, _MOST_WAITING)
        return 0 if self.halted else self.executor.capacity - len(self.deliveries) + waiting

    # from the broker to a child

    def take(self, consumer: Consumer, deliveries: list[Delivery]) -> None:
        """Have the jobs of deliveries run."""
        for delivery in deliveries:
            if self.halted:  # since they were asked for
                self.deliveries.release_unseen(consumer, delivery)
                continue
            held = InFlight.of(delivery, consumer)
            self.deliveries.add(held)
            try:
                self._take(held)
            except Exception as error:  # noqa: BLE001 - whatever is in a message, it must not end the worker
                self.deliveries.fail(held, error)

    def _take(self, held: InFlight) -> None:
        message = held.delivery.message
        if self._cancelled.is_run_cancelled(held.run):
            self.deliveries.close(held)
        elif not knows_encoding(message.content_encoding):
            self.deliveries.reject(held, f"unknown content encoding {message.content_encoding!r}")
        elif held.delivery.count and (singles := isolate(held)):
            logger.warning(
                "a message of %s, run %s, came back %d times: its jobs are published again, each by itself",
                *(held.function, held.run, held.delivery.count),
            )
            for single in singles:
                self.deliveries.give_away(held, single)
            self.deliveries.close(held)
        else:
            self.deliveries.count_received(held)
            whole = held.assignment(self._secrets.of(held.delivery, held.function))
            if held.version and not self.versions.use(held.function, held.version):
                self.versions.prepare(whole, self._submit)
                self.room.set()  # for others: it takes no slot while it waits
            else:
                self._submit(whole)

    def _submit(self, assignment: Assignment) -> None:
        """Have an assignment run, without jobs that were cancelled."""
        held = in_flight(assignment)
        try:
            sifted = self._cancelled.sift(held.run, assignment) if self._cancelled.concerns(held.run) else assignment
        except Exception as error:  # noqa: BLE001 - whatever is in a message, it must not keep others from their turn
            self.deliveries.fail(held, error)
            return
        if sifted is None:
            self.deliveries.close(held)
        else:
            self.executor.submit(sifted)

    def _on_cancelled(self, runs: set[str]) -> None:
        if self.deliveries.has_run(runs):
            self._stop_cancelled(runs)

    def _stop_cancelled(self, runs: set[str]) -> None:
        """Stop what has been cancelled of some runs."""
        for assignment in self.executor.take_back():
            self._submit(assignment)
        if stop_cancelled(self.executor.children, self._cancelled, runs, self.settings.cancel_grace):
            asyncio.get_running_loop().call_later(_CHOOSING, self._stop_cancelled, runs)

    # from a child to the broker: the executor's listener

    def on_results(self, assignment: Assignment, frame: Frame) -> None:
        """Publish results on their way from a child."""
        held = in_flight(assignment)
        if frame.kind != Kind.RUNNING:
            self.events.add(held.function, Events.DONE, frame.jobs - frame.failed)
            self.events.add(held.function, Events.FAIL, frame.failed)
        else:
            note_progress(assignment.yielded, frame)
        self.deliveries.publish_results(held, Message(frame.body, frame.content_encoding, held.headers(frame.jobs)))

    def on_done(self, assignment: Assignment) -> None:
        """An assignment is finished, though its results may not be confirmed yet."""
        self.deliveries.close(in_flight(assignment))

    def on_dead(self, assignment: Assignment, reason: str) -> None:
        """Send a message that no child can read to the dead letters."""
        self.deliveries.reject(in_flight(assignment), reason)

    def on_failed(self, assignment: Assignment, error: Exception) -> None:
        """Give back a message that could not be handed to a child, or whose answers could not be handled."""
        self.deliveries.fail(in_flight(assignment), error)

    def on_given(self, assignment: Assignment, frame: Frame) -> None:
        """Publish jobs that a child has not begun and other workers may run sooner."""
        held = in_flight(assignment)
        if not held.is_part(frame.body, frame.content_encoding):
            logger.error(
                "a child gave back jobs that are not those of %s, run %s, which it had: they are dropped, and what it "
                "had is found and published again. Its function writes to descriptors that are not its own",
                held.function,
                held.run,
            )
            return
        message = Message(frame.body, frame.content_encoding, held.headers_of_part(frame.jobs))
        self.deliveries.give_away(held, message, frame.jobs)

    def on_begun(self, assignment: Assignment) -> None:
        """Take more work, beside what a child has begun."""
        run = in_flight(assignment).run
        if self._cancelled.concerns(run):  # heard before it was known where the child has put the jobs
            self._stop_cancelled({run})
        self.room.set()
        if self.free_slots > 0:
            self._consumers.check_prefetch()

    def on_claim(self, assignment: Assignment, frame: Frame, go: Callable[[], None]) -> None:
        """Publish a lease; once it is on record the delivery needs no longer be held, and the jobs may begin."""
        held = in_flight(assignment)
        self.deliveries.claim(held, Message(frame.body, frame.content_encoding, held.headers(frame.jobs)), go)

    def on_ready(self) -> None:
        """Take more work, for a child more."""
        self._on_settled()

    def on_replaced(self, function: str) -> None:
        """Count a child that was replaced after jobs of a function."""
        self.events.add(function, Events.REPLACED, 1)

    def on_log(self, frame: Frame) -> None:
        """Hand on what a function has logged."""
        self._on_log(frame.body)

    def on_crash(self, assignment: Assignment, crash: Crash) -> None:
        """Publish, run again or reject the jobs of a child that died, as the recoverer decides."""
        held = in_flight(assignment)
        held.begun = True
        recovery = self._recoverer.recover(assignment, crash)
        logger.warning(
            "a child %s while it was running a message of %s, run %s: %s", crash.said, held.function, held.run, recovery
        )
        if recovery.dead:
            self.deliveries.reject(held, recovery.dead)
            return
        if recovery.part is not None:
            self.events.add(held.function, Events.FAIL, recovery.results)
            self.deliveries.publish_results(held, Message(*recovery.part, held.headers(recovery.results)))
        held.open += len(recovery.again)
        for part in recovery.again:
            self._submit(part)
        self.deliveries.close(held)

    def _on_settled(self) -> None:
        """There is room for more work."""
        self.room.set()
        self._pacer.wake()

    # the end

    async def _drain(self) -> None:
        """Take no more and finish what is begun, as far as time allows."""
        self.draining = True
        await self._consumers.cease()
        finishing = asyncio.create_task(self._finish(), name="drain")
        try:
            await wait_first(finishing, self._hurry, timeout=self.settings.drain_timeout)
        finally:
            drained = finishing.done()
            await end_tasks([finishing])
        if drained:
            finishing.result()
        else:
            logger.warning("not drained: %d messages go back to the queue", len(self.deliveries))

    async def _finish(self) -> None:
        await self._give_back(self._take_back())
        await self.executor.wait_idle()
        await self.deliveries.wait_idle()

    def _take_back(self) -> list[Assignment]:
        """Take back what no child has begun, and what waits for its version."""
        return [*self.versions.take_back(), *self.executor.take_back()]

    async def _give_back(self, assignments: list[Assignment]) -> None:
        """Give back the deliveries that nothing has been done for; of others, finish what a crash has left."""
        self.deliveries.release(
            self.deliveries.part_with([each for each in assignments if in_flight(each).is_untouched])
        )
        for assignment in assignments:
            if not in_flight(assignment).leaving:
                self.executor.submit(assignment)


class InternationalWorker(Worker):
    """A worker of the route `international` alone."""

    def __init__(
        self,
        settings: WorkerSettings,
        broker: Broker,
        *,
        hurry: asyncio.Event | None = None,
        open_broker: Callable[[str], Broker] = open_broker,
        fetcher: Fetcher | None = None,
    ) -> None:
        super().__init__(_international(settings), broker, hurry=hurry, open_broker=open_broker, fetcher=fetcher)

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
    functions = settings.functions and os.path.abspath(settings.functions)  # a child may be in another folder
    versions = os.path.abspath(settings.versions)
    unused = {name: getattr(default, name) for name in _OF_PARENT}
    return replace(settings, functions=functions, versions=versions, **unused)
