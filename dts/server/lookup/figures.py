"""Figures about the whole fleet, looked up when they are asked for, and not more often than every few seconds."""

from __future__ import annotations

import asyncio
import logging
import time

from prometheus_client import Gauge

from dts.broker import Broker
from dts.errors import DtsError
from dts.model import DEFAULT_ROUTE
from dts.server.lookup.fleet import ALIVE
from dts.store import Store
from dts.wire.queues import DEAD, RESULTS, jobs_queue

logger = logging.getLogger(__name__)

_VALID = 5.0
"""Seconds for which what was looked up is good: several monitors that scrape cost what one costs."""

_PATIENCE = 2.0
"""Seconds for each of store and broker: a monitor that waits has given up after ten, and the figures of this process
are worth the most while something is away."""

_QUEUE = Gauge("dts_queue_messages", "Messages that wait in the queue of a route.", ["route"])
_RESULTS = Gauge("dts_results_messages", "Messages of results that wait for porter.")
_DEAD = Gauge("dts_dead_messages", "Dead letters that wait for timekeeper.")
_BACKLOG = Gauge("dts_backlog_jobs", "Jobs of all users by state.", ["state"])
_WORKERS = Gauge("dts_workers", "Workers by what their last heartbeats say.", ["state"])
_AGE = Gauge("dts_heartbeat_age_seconds", "Age of the oldest last heartbeat of workers that are heard of.")
_ALERTS = Gauge("dts_alerts_active", "Alerts that are firing.")


class Figures:
    """Looks up what is not counted in any process."""

    def __init__(self, store: Store, broker: Broker) -> None:
        self._store, self._broker = store, broker
        self._valid_until = 0.0
        self._lock = asyncio.Lock()

    async def refresh(self) -> None:
        """Look up what is too old. While the store or the broker is away, its figures stay as they were."""
        async with self._lock:
            if time.monotonic() < self._valid_until:
                return
            for look in (self._look_at_store, self._look_at_queues):
                try:
                    async with asyncio.timeout(_PATIENCE):
                        await look()
                except (DtsError, TimeoutError) as error:
                    logger.debug("figures are not up to date: %r", error)
            self._valid_until = time.monotonic() + _VALID

    async def _look_at_store(self) -> None:
        _BACKLOG.labels("unfinished").set(await self._store.count_unfinished())
        _ALERTS.set(await self._store.count_documents("alerts", group="firing"))
        now, states = self._store.now(), await self._store.list_heartbeats()
        heard = [state for state in states if now - state.time <= ALIVE and not state.has_ended]
        live = [state for state in heard if state.can_work]
        _WORKERS.labels("live").set(len(live))
        _WORKERS.labels("childless").set(len(heard) - len(live))
        _WORKERS.labels("silent").set(sum([now - state.time > ALIVE and not state.has_ended for state in states]))
        _AGE.set(max((now - state.time for state in heard), default=0.0))

    async def _look_at_queues(self) -> None:
        routes = {DEFAULT_ROUTE, *(function.route for function in await self._store.list_functions())}
        for route in sorted(routes):
            _QUEUE.labels(route).set((await self._broker.depth(jobs_queue(route))).ready)
        _RESULTS.set((await self._broker.depth(RESULTS)).ready)
        _DEAD.set((await self._broker.depth(DEAD)).ready)
