"""Heartbeats: every few seconds, how the machine is and what the worker does."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import time
from collections.abc import Iterator
from contextlib import suppress

import psutil

from dts.broker import Broker
from dts.errors import DtsError
from dts.model.fleet import CHILDLESS, ENDED
from dts.runtime.log_throttle import OutageLog
from dts.runtime.service import Service
from dts.version import __version__
from dts.wire import codec
from dts.wire.dts_pb2 import Heartbeat, JobBatch, RunningJob
from dts.worker.events import Events
from dts.worker.link.board import STARTED, find_state
from dts.worker.pool.child_process import Assignment, ChildProcess
from dts.worker.queues.in_flight import in_flight
from dts.worker.telemetry.rights import RightsCheck
from dts.worker.telemetry.shipping import publish_heartbeat
from dts.worker.telemetry.stall import StallCheck
from dts.worker.worker import Worker

logger = logging.getLogger(__name__)

_CHILDLESS_AFTER = 60.0
"""Seconds without a child process after which a worker says that it has none: one starts in less than a second."""

_GOODBYE = 2.0  # seconds that the broker has to take the last heartbeat

MAX_RUNNING = 100
"""Jobs that a heartbeat names."""
NAMED_AFTER = 0.5
"""Seconds that a message must have been with its child before its jobs are named."""


class Prober(Service):
    """Publishes heartbeats until it is stopped, a last one then, and has the worker take nothing while its machine is
    short of memory or disk.
    """

    def __init__(self, worker: Worker, broker: Broker, rights: RightsCheck | None = None) -> None:
        super().__init__()
        self._stall = StallCheck(worker)
        self._cure: asyncio.Task[None] | None = None
        self._worker, self._broker, self._rights = worker, broker, rights
        self._had_children = time.monotonic()
        self._started = False
        self._since, self._since_monotonic = time.time(), time.monotonic()
        self._outage = OutageLog(logger)
        self._host = socket.gethostname()

    async def _start(self) -> None:
        self._stack.push_async_callback(self._say_goodbye)
        self._stack.push_async_callback(self._end_cure)
        psutil.cpu_percent()  # counts from this call on
        self._spawn(self._run(), "prober")

    async def _end_cure(self) -> None:
        if self._cure is not None:
            self._cure.cancel()
            await asyncio.wait([self._cure])

    async def _run(self) -> None:
        while True:
            try:
                await self.probe()
            except Exception as error:  # noqa: BLE001 - no heartbeat is worth the worker's life
                self._outage.failed("no heartbeat is sent, since it cannot be made: %r", error)
            else:
                self._outage.worked("heartbeats are sent again")
            await asyncio.sleep(self._worker.settings.heartbeat)

    async def probe(self) -> None:
        """Measure, act on it, and publish a heartbeat."""
        beat = self.measure()
        short = shortage(beat, self._worker)
        if short != self._worker.short_of:
            if short:
                logger.warning("taking no more work: this machine is short of %s", short)
            else:
                logger.info("taking work again")
            await self._worker.set_shortage(short)
        stalled = await self._stall.check(time.monotonic())
        if stalled and (self._cure is None or self._cure.done()):  # whatever it waits for may never come
            self._cure = asyncio.create_task(self._worker.fetch_anew(), name="fetch anew")
            self._cure.add_done_callback(self._on_task_done)
        childless = self._is_childless(beat)
        beat.state = (
            "draining" if self._worker.draining else short or (CHILDLESS if childless else stalled) or "working"
        )
        await publish_heartbeat(self._broker, beat.SerializeToString())

    def _is_childless(self, beat: Heartbeat) -> bool:
        now = time.monotonic()
        if beat.children:
            self._had_children = now
        return now - self._had_children >= _CHILDLESS_AFTER

    async def _say_goodbye(self) -> None:
        """Publish the last heartbeat, unless the worker ends because something has broken."""
        if self._worker.failed.is_set():
            return
        with suppress(OSError, psutil.Error):
            beat = self.measure()
            beat.state, beat.children, beat.jobs_running = ENDED, 0, 0
            del beat.running[:]
            await publish_heartbeat(self._broker, beat.SerializeToString(), timeout=_GOODBYE)

    def measure(self) -> Heartbeat:
        """The heartbeat of this moment, without a state."""
        worker = self._worker
        beat = Heartbeat(
            worker=worker.name,
            host=self._host,
            pid=os.getpid(),
            version=__version__,
            time=round(time.time(), 3),
            started=round(self._since, 3),
            uptime=round(time.monotonic() - self._since_monotonic, 3),
            routes=worker.routes.names,
            cpu_percent=round(psutil.cpu_percent(), 1),
            memory_percent=round(psutil.virtual_memory().percent, 1),
            disk_percent=round(psutil.disk_usage(".").percent, 1),
            load_1m=round(os.getloadavg()[0], 2),
            children=worker.executor.slots,
            notes=[self._rights.note] if self._rights is not None and self._rights.note else [],
        )
        for function in worker.events.functions:
            counts = beat.functions[function]
            counts.received = worker.events.count(function, Events.RECV)
            counts.done = worker.events.count(function, Events.DONE)
            counts.failed = worker.events.count(function, Events.FAIL)
            counts.replaced = worker.events.count(function, Events.REPLACED)
        for child in worker.executor.children:
            beat.jobs_running += len(child.board.places(STARTED)) if child.given else 0
            beat.running.extend(list(running_jobs(child))[: MAX_RUNNING - len(beat.running)])
        return beat


def shortage(beat: Heartbeat, worker: Worker) -> str:
    """What the machine has too little of: memory, disk, or nothing, which is empty."""
    if 100 - beat.memory_percent < worker.settings.min_memory_percent:
        return "memory"
    if 100 - beat.disk_percent < worker.settings.min_disk_percent:
        return "disk"
    return ""


def running_jobs(child: ChildProcess) -> Iterator[RunningJob]:
    """The jobs that a child is at, unless it has got them only just now. Decodes its messages."""
    for assignment in child.at_work:
        yield from _running_jobs(child, assignment)


def _running_jobs(child: ChildProcess, assignment: Assignment) -> Iterator[RunningJob]:
    age = time.monotonic() - assignment.given
    if age < NAMED_AFTER:
        return
    try:
        jobs = codec.decode(JobBatch, assignment.body, assignment.content_encoding).jobs
    except DtsError:
        return
    held = in_flight(assignment)
    first = assignment.first
    states = child.board.states[first : first + assignment.count]
    for position in find_state(states, STARTED)[:MAX_RUNNING]:
        if position < len(jobs):
            index = jobs[position].index
            number = "" if held.number is None else f"{held.run}-{held.number + index}"
            yield RunningJob(
                job=number or f"{held.block}:{index}", function=held.function, started=round(time.time() - age, 3)
            )
