"""Looks at the fleet: what is asked of store, broker and the daemons' host for one evaluation of the rules."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping

from dts.broker import Broker
from dts.errors import BrokerUnavailable
from dts.model import DEFAULT_ROUTE, AlertRule, VirtualHost, WorkerState
from dts.server.alerts.observe import Snapshot, Traffic
from dts.server.alerts.targets import Targets
from dts.server.history.functions import recent_traffic
from dts.store import Store
from dts.wire.queues import jobs_queue

_TRAFFIC_FOR = 300.0
"""Seconds of a function's results that its failure rate is made of."""


class Looker:
    """Looks, and remembers what needs no second look, and since when the broker does not answer."""

    def __init__(self, store: Store, broker: Broker) -> None:
        self._store = store
        self._broker = broker
        self._broker_failed: float | None = None
        self._stuck: dict[str, float] = {}
        self._targets = Targets()

    async def look(self, rules: Iterable[AlertRule]) -> Snapshot:
        """What is known now, as far as the rules need it.

        Raises:
            StoreUnavailable: nothing is.
        """
        rules = [rule for rule in rules if rule.enabled]
        kinds = {rule.kind for rule in rules}
        workers = await self._store.list_heartbeats()
        queues = await self._queues(workers) if kinds & {"queue", "queue_age"} else {}
        traffic = await recent_traffic(self._store, seconds=_TRAFFIC_FOR) if kinds & {"failures", "queue_age"} else {}
        return Snapshot(
            now=self._store.now(),
            workers=tuple(workers),
            vhosts={host.id: host for host in await self._store.list_records(VirtualHost, limit=None)},
            queues=queues,
            ages=await self._ages(queues, traffic) if "queue_age" in kinds else {},
            traffic={name: Traffic(count, failed) for name, (count, failed, _) in traffic.items()},
            broker_away=await self._broker_away(),
            targets=await self._targets.look(rules),
        )

    async def _broker_away(self) -> float:
        try:
            await self._broker.ping()
        except BrokerUnavailable:
            self._broker_failed = self._broker_failed or time.monotonic()
            return time.monotonic() - self._broker_failed
        self._broker_failed = None
        return 0.0

    async def _queues(self, workers: Iterable[WorkerState]) -> dict[str, int]:
        """How many messages wait in the queue of each route that a function or a worker has."""
        routes = {DEFAULT_ROUTE, *(function.route for function in await self._store.list_functions())}
        routes.update(route for state in workers for route in state.routes)
        depths: dict[str, int] = {}
        for route in sorted(routes):
            try:
                depths[route] = (await self._broker.depth(jobs_queue(route))).ready
            except BrokerUnavailable:
                continue  # that is an alert of its own
        return depths

    async def _ages(self, queues: Mapping[str, int], traffic: Mapping[str, tuple[int, int, float]]) -> dict[str, float]:
        """For how long jobs of a route wait: those that were started last, or since when none is while some wait."""
        waits: dict[str, float] = {}
        for function in await self._store.list_functions():
            if function.name in traffic:
                waits[function.route] = max(waits.get(function.route, 0.0), traffic[function.name][2])
        now = time.monotonic()
        stuck = {route: now for route, waiting in queues.items() if waiting and route not in waits}
        self._stuck = {route: self._stuck.get(route, since) for route, since in stuck.items()}
        return {
            route: (waits.get(route, 0.0) or now - self._stuck.get(route, now)) if waiting else 0.0
            for route, waiting in queues.items()
        }
