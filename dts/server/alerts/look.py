"""Looks at the fleet: what is asked of store, broker and the daemons' host for one evaluation of the rules."""

from __future__ import annotations

import asyncio
import logging
import shutil
import ssl
import time
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path

from cachetools import TTLCache
from cryptography import x509

from dts.broker import Broker
from dts.errors import BrokerUnavailable
from dts.model import DEFAULT_ROUTE, AlertRule, VirtualHost, WorkerState
from dts.server.alerts.observe import Snapshot, Traffic
from dts.server.history.functions import recent_traffic
from dts.store import Store
from dts.wire.queues import jobs_queue

logger = logging.getLogger(__name__)

_CERTIFICATES_FOR = 3600.0
"""Seconds for which a certificate counts as known: it runs out over days."""

_TRAFFIC_FOR = 300.0
"""Seconds of a function's results that its failure rate is made of."""

_CONNECT = 10.0  # seconds to fetch a certificate


class Looker:
    """Looks, and remembers what needs no second look, and since when the broker does not answer."""

    def __init__(self, store: Store, broker: Broker) -> None:
        self._store = store
        self._broker = broker
        self._broker_failed: float | None = None
        self._stuck: dict[str, float] = {}
        self._certificates: TTLCache[str, float | None] = TTLCache(1000, _CERTIFICATES_FOR)

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
            targets=await self._targets(rules),
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

    async def _targets(self, rules: Iterable[AlertRule]) -> dict[tuple[str, str], float]:
        found: dict[tuple[str, str], float] = {}
        for rule in rules:
            if rule.kind == "space":
                if (used := await asyncio.to_thread(_used, rule.target)) is not None:
                    found[rule.kind, rule.target] = used
            elif rule.kind == "certificate" and (left := await self._days_left(rule.target)) is not None:
                found[rule.kind, rule.target] = left
        return found

    async def _days_left(self, target: str) -> float | None:
        """For how many days a certificate is valid; None if it cannot be read."""
        if target not in self._certificates:
            try:
                async with asyncio.timeout(_CONNECT):
                    self._certificates[target] = await asyncio.to_thread(_valid_until, target)
            except (OSError, ValueError, TimeoutError) as error:
                logger.warning("no alert can come of the certificate of %s, since it cannot be read: %s", target, error)
                self._certificates[target] = None
        until = self._certificates[target]
        return None if until is None else (until - time.time()) / 86400


def _used(folder: str) -> float | None:
    """How much of the disk of a folder is used, in percent; None if there is no such folder."""
    try:
        usage = shutil.disk_usage(folder)
    except OSError as error:
        logger.warning("the disk of %s cannot be looked at: %s", folder, error)
        return None
    return 100.0 * usage.used / max(1, usage.used + usage.free)


def _valid_until(target: str) -> float:
    """When a certificate runs out: of a file in PEM, or of what listens at host:port.

    Raises:
        OSError, ValueError: it cannot be read.
    """
    host, colon, port = target.rpartition(":")
    if colon and port.isdigit() and "/" not in target:
        text = ssl.get_server_certificate((host.strip("[]"), int(port)), timeout=_CONNECT)
    else:
        text = Path(target).read_text(encoding="ascii")
    until: datetime = x509.load_pem_x509_certificate(text.encode()).not_valid_after_utc
    return until.astimezone(UTC).timestamp()
