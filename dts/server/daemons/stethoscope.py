"""Stethoscope: heartbeats queue → store, and mails on hosts that are in trouble, or silent, or well again.

Whether something has been mailed is noted in the store, so that of several stethoscopes one does, also over a restart.
A figure counts as high once it has been over its limit for a while, and as well again when it has fallen a good way
below: what goes up and down around the limit is mailed once.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping, Sequence
from functools import partial

from cachetools import LRUCache

from dts.broker import Consumer, Delivery
from dts.errors import WireError
from dts.model import WorkerState, new_id
from dts.server.daemons._base import Daemon
from dts.server.lookup.fleet import latest_of_hosts
from dts.server.notify.notice import Notice
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
_HYSTERESIS = 5.0
"""Percent below a limit at which a figure counts as well again."""

_MAX_MAILS = 100  # that wait for the mail server

_MEASURES = ("cpu", "memory", "disk")


class Stethoscope(Daemon):
    """Listens to the workers."""

    async def _start(self) -> None:
        self._notifier = Notifier(self._store, self._settings)
        await self._stack.enter_async_context(self._notifier)
        self._clocks = WorkerClocks()
        self._high_since: dict[str, float] = {}
        self._alerts: dict[str, float] = {}
        self._alerts_until = 0.0
        self._mails: asyncio.Queue[tuple[str, str]] = asyncio.Queue(_MAX_MAILS)
        self._spawn(self._send_mails(), "stethoscope-mail")
        consumer = await self._broker.consume(HEARTBEATS, prefetch=2 * _MAX_MESSAGES)
        self._stack.push_async_callback(consumer.close)
        self._spawn(self._listen(consumer), "stethoscope")
        seconds = min(self._settings.daemons.silence / 4, 5.0)
        self._spawn(self._every(seconds, self._look_for_silence, "look for silent hosts"), "stethoscope-silence")

    async def _listen(self, consumer: Consumer) -> None:
        while deliveries := await consumer.receive(_MAX_MESSAGES):
            read = await self._read(consumer, deliveries, self._read_heartbeat)
            states = await self._record(consumer, read, self._save, "save heartbeats")
            for state in _latest(states):
                await self._try(partial(self._examine, state), "note the state of hosts")

    def _read_heartbeat(self, delivery: Delivery) -> WorkerState:
        return read_heartbeat(delivery, self._store.now(), self._clocks)

    async def _save(self, states: Sequence[WorkerState]) -> None:
        await self._store.save_heartbeats(_latest(states))

    # figures

    async def _examine(self, state: WorkerState) -> None:
        """Mail when a figure of the host has become high, or is well again."""
        limits = self._limits()
        for measure in _MEASURES:
            value, limit = getattr(state, measure), limits[measure]
            if value < limit - _HYSTERESIS:
                self._high_since.pop(f"{state.host}:{measure}", None)
                await self._note(f"{state.host}:{measure}", False, _well(state, measure, value))
            elif value >= limit and self._is_lasting(f"{state.host}:{measure}", state.time):
                await self._note(f"{state.host}:{measure}", True, _high(state, measure, value, limit))

    def _limits(self) -> Mapping[str, float]:
        daemons = self._settings.daemons
        return {"cpu": daemons.max_cpu, "memory": daemons.max_memory, "disk": daemons.max_disk}

    def _is_lasting(self, key: str, now: float) -> bool:
        return now - self._high_since.setdefault(key, now) >= self._settings.daemons.high_for

    # silence

    async def _look_for_silence(self) -> None:
        """Mail when nothing was heard of any worker of a host for a while, and when something is again.

        A host whose last word was that its worker ends was stopped by somebody, who need not be told.
        """
        now, settings = self._store.now(), self._settings.daemons
        states = await self._store.list_heartbeats()
        for host, state in latest_of_hosts(states).items():
            last, silent = state.time, now - state.time > settings.silence and not state.has_ended
            text = f"{host} was last heard of {now - last:.0f} seconds ago, at {_clock(last)}."
            subject = f"{host} is silent" if silent else f"{host} is back"
            await self._note(f"{host}:silent", silent, (subject, text))
        gone = now - settings.forget_hosts
        if any(state.time < gone for state in states):
            await self._store.drop_heartbeats(gone)
            for host in {state.host for state in states} - {state.host for state in states if state.time >= gone}:
                for what in (*_MEASURES, "silent"):
                    await self._store.set_alert(f"{host}:{what}", active=False, now=now)

    async def _note(self, key: str, active: bool, mail: tuple[str, str]) -> None:
        """Note whether something is the matter; mail if that is news."""
        if active == (key in await self._known_alerts()):
            return
        self._alerts_until = 0.0
        if await self._store.set_alert(key, active=active, now=self._store.now()):
            try:
                self._mails.put_nowait(mail)
            except asyncio.QueueFull:
                logger.warning("too many mails at once, this one is not sent: %s\n%s", *mail)

    async def _known_alerts(self) -> Mapping[str, float]:
        """The alerts that are raised; read anew every second, since nearly always nothing has changed."""
        now = time.monotonic()
        if now >= self._alerts_until:
            self._alerts, self._alerts_until = await self._store.list_alerts(), now + 1.0
        return self._alerts

    async def _send_mails(self) -> None:
        while True:
            subject, text = await self._mails.get()
            await self._try(partial(self._mail, subject, text), "mail the state of a host")

    async def _mail(self, subject: str, text: str) -> None:
        await self._notifier.post(Notice(new_id(), "alert", subject, text))


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


def _high(state: WorkerState, measure: str, value: float, limit: float) -> tuple[str, str]:
    text = (
        f"{measure} of {state.host} is at {value:.0f} % and has been over {limit:.0f} % for a while.\n\n"
        f"worker {state.worker}, version {state.version}, state {state.state or 'unknown'}\n"
        f"cpu {state.cpu:.0f} %, memory {state.memory:.0f} %, disk {state.disk:.0f} %, load {state.load:.1f}\n"
        f"{state.jobs_running} jobs at work in {state.children} processes"
    )
    return f"{state.host}: {measure} at {value:.0f} %", text


def _well(state: WorkerState, measure: str, value: float) -> tuple[str, str]:
    return f"{state.host}: {measure} is well again", f"{measure} of {state.host} is at {value:.0f} %."


def _clock(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(seconds))
