"""Stethoscope: heartbeats queue → store; and it evaluates the alert rules, see `alerts.engine`."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence

from cachetools import LRUCache

from dts.broker import Consumer, Delivery
from dts.errors import StoreUnavailable, WireError
from dts.model import WorkerState
from dts.server.alerts.engine import Engine
from dts.server.daemons._base import Daemon
from dts.server.history.hosts import HostHistory
from dts.server.notify.notifier import Notifier
from dts.wire import codec, dts_pb2, sanitize
from dts.wire.queues import HEARTBEATS

logger = logging.getLogger(__name__)

_MAX_MESSAGES = 256
_MAX_HEARTBEAT = 1024 * 1024  # bytes
_MAX_ROWS = 10_000  # routes, functions and running jobs of a worker
_MAX_NOTES = 10
_MAX_LOAD = 1e6
_MAX_WORKERS = 10_000
_MAX_TIME = 1e12  # seconds
_FORGET_INTERVAL = 60.0
_HISTORY_INTERVAL = 30.0  # seconds; what a process has not written by then is lost if it is killed


class Stethoscope(Daemon):
    """Listens to the workers."""

    async def _start(self) -> None:
        self._notifier = Notifier(self._store, self._settings)
        await self._stack.enter_async_context(self._notifier)
        self._clocks = WorkerClocks()
        self._history = HostHistory(self._store)
        self._engine = Engine(self._store, self._broker, self._settings, self._notifier)
        self._stack.push_async_callback(self._engine.close)
        self._interval = min(self._settings.daemons.alert_interval, self._settings.daemons.silence / 4)
        consumer = await self._broker.consume(HEARTBEATS, prefetch=2 * _MAX_MESSAGES)
        self._stack.push_async_callback(consumer.close)
        self._spawn(self._listen(consumer), "stethoscope")
        self._spawn(self._every(_HISTORY_INTERVAL, self._history.flush, "note how hosts are"), "stethoscope-history")
        self._spawn(self._evaluate(), "stethoscope-alerts")
        self._spawn(self._every(_FORGET_INTERVAL, self._forget_hosts, "forget hosts"), "stethoscope-forget")

    async def _listen(self, consumer: Consumer) -> None:
        while deliveries := await consumer.receive(_MAX_MESSAGES):
            read = await self._read(consumer, deliveries, self._read_heartbeat)
            self._history.note(await self._record(consumer, read, self._save, "save heartbeats"))

    def _read_heartbeat(self, delivery: Delivery) -> WorkerState:
        return read_heartbeat(delivery, self._store.now(), self._clocks)

    async def _save(self, states: Sequence[WorkerState]) -> None:
        await self._store.save_heartbeats(_latest(states))

    async def _evaluate(self) -> None:
        """Evaluate the alert rules again and again, also while the store is away, which is an alert as well."""
        while True:
            try:
                await self._engine.tick()
                self._outage.worked("the store can be used again")
            except StoreUnavailable as error:
                self._outage.failed("cannot look for what is the matter now, trying again until it works: %s", error)
                await self._engine.store_is_away(error)
            except Exception:
                logger.exception("the alert rules could not be evaluated; it is tried again")
            await asyncio.sleep(self._interval)

    async def _forget_hosts(self) -> None:
        await self._store.drop_heartbeats(self._store.now() - self._settings.daemons.forget_hosts)
        self._history.forget({state.host for state in await self._store.list_heartbeats()})


class WorkerClocks:
    """Tells how long heartbeats were on their way, by clocks that nobody can set.

    A worker's uptime and this process's clock go at the same pace. Of all heartbeats of a worker the one that came most
    quickly shows how far the two are apart; one that is later than that has waited so long in the queue.
    """

    def __init__(self) -> None:
        self._apart: LRUCache[tuple[str, int, float], float] = LRUCache(_MAX_WORKERS)

    def delay_of(self, beat: dts_pb2.Heartbeat) -> float:
        """Seconds for which a heartbeat was on its way; 0 for the first of a worker that this process reads."""
        if not beat.uptime:
            return 0.0  # it does not say
        apart = time.monotonic() - sanitize.finite(beat.uptime, low=0, high=_MAX_TIME)
        key = beat.worker, beat.pid, beat.started
        least = self._apart[key] = min(self._apart.get(key, apart), apart)
        return apart - least


def _latest(states: Sequence[WorkerState]) -> list[WorkerState]:
    """The last state of each worker."""
    return list({state.worker: state for state in states}.values())


def read_heartbeat(delivery: Delivery, now: float, clocks: WorkerClocks) -> WorkerState:
    """The state in a delivery, with all times by the clock that says `now`.

    Raises:
        WireError: the body is no Heartbeat, or does not say whose, or tells more than there can be.
        TooLarge: it is too large.
    """
    message = delivery.message
    beat = codec.decode(dts_pb2.Heartbeat, message.body, message.content_encoding, max_size=_MAX_HEARTBEAT)
    if not beat.worker or not beat.host:
        raise WireError("a heartbeat must say of which worker and host it is")
    if max(len(beat.worker), len(beat.host)) > sanitize.MAX_NAME:
        raise WireError(f"a heartbeat has a name of over {sanitize.MAX_NAME} characters")
    if max(len(beat.routes), len(beat.functions), len(beat.running)) > _MAX_ROWS:
        raise WireError(f"a heartbeat has over {_MAX_ROWS} rows of a kind")
    sent = now - clocks.delay_of(beat)
    ahead = sanitize.finite(beat.time, low=0, high=_MAX_TIME) - sent
    return WorkerState(
        worker=beat.worker,
        host=beat.host,
        time=round(sent, 3),
        pid=beat.pid,
        version=sanitize.name(beat.version),
        started=round(sanitize.moment(beat.started - ahead, now), 3),
        routes=tuple(sanitize.name(route) for route in beat.routes),
        cpu=sanitize.finite(beat.cpu_percent, low=0, high=100),
        memory=sanitize.finite(beat.memory_percent, low=0, high=100),
        disk=sanitize.finite(beat.disk_percent, low=0, high=100),
        load=sanitize.finite(beat.load_1m, low=0, high=_MAX_LOAD),
        children=beat.children,
        jobs_running=beat.jobs_running,
        state=sanitize.name(beat.state),
        notes=tuple(sanitize.name(note) for note in beat.notes[:_MAX_NOTES]),
        functions={sanitize.name(name): _counts(counts) for name, counts in beat.functions.items()},
        running=tuple(
            {
                "job": sanitize.name(job.job),
                "function": sanitize.name(job.function),
                "started": round(sanitize.moment(job.started - ahead, now), 3),
            }
            for job in beat.running
        ),
        ahead=round(ahead, 3),
    )


def _counts(counts: dts_pb2.EventCounts) -> dict[str, int]:
    """Counts that a reader of JSON can hold exactly."""
    return {name: min(getattr(counts, name), 2**53 - 1) for name in ("received", "done", "failed", "replaced")}
