"""What the server knows of the workers, by their heartbeats."""

from __future__ import annotations

import time
from collections.abc import Iterable

from dts.broker import Broker
from dts.errors import BrokerUnavailable
from dts.model import WorkerState
from dts.store import Store
from dts.wire.queues import jobs_queue

ALIVE = 30.0
"""Seconds after its last heartbeat for which a worker counts as alive."""

UNHEARD = 2
"""Children that are expected of a route of which no worker was heard."""

_CACHE_SECONDS = 3.0


class Fleet:
    """The workers that were heard of lately, looked up anew every few seconds."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._states: list[WorkerState] = []
        self._valid_until = 0.0
        self._since = time.monotonic()

    async def serves(self, route: str) -> bool:
        """Whether a live worker serves a route; True also while none has had the time to be heard of, for ALIVE."""
        serving = await self._serving(route)
        return bool(serving) or (not self._states and time.monotonic() < self._since + ALIVE)

    async def children(self, route: str) -> int:
        """How many children the live workers have that serve a route; UNHEARD, unless they have more, of new ones.

        Workers that have come since their last heartbeats are not known yet.
        """
        return max(UNHEARD, sum(state.children for state in await self._serving(route)))

    async def _serving(self, route: str) -> list[WorkerState]:
        if time.monotonic() >= self._valid_until:
            self._valid_until = time.monotonic() + _CACHE_SECONDS
            self._states = await self._store.list_heartbeats()
        since = self._store.now() - ALIVE
        return [state for state in self._states if state.time > since and route in state.routes and state.can_work]


class LeftRoutes:
    """Whether jobs wait in the queues of routes that functions have left, looked up anew every few seconds."""

    def __init__(self) -> None:
        self._found: dict[str, tuple[float, bool]] = {}

    async def has_jobs(self, broker: Broker, route: str) -> bool:
        """Whether messages wait in the queue of a route; False also while its broker does not answer."""
        valid_until, waiting = self._found.get(route, (0.0, False))
        if time.monotonic() >= valid_until:
            try:
                waiting = (await broker.depth(jobs_queue(route))).ready > 0
            except BrokerUnavailable:
                waiting = False
            self._found[route] = time.monotonic() + _CACHE_SECONDS, waiting
        return waiting


def latest_of_hosts(states: Iterable[WorkerState]) -> dict[str, WorkerState]:
    """What was heard last of each host, of any of its workers."""
    latest: dict[str, WorkerState] = {}
    for state in states:
        known = latest.get(state.host)
        if known is None or state.time >= known.time:
            latest[state.host] = state
    return latest
