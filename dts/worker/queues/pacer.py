"""Gives messages back that wait here although another worker could begin them.

A worker may hold as many deliveries as it has children, and as many again while its messages are quick. When every
child is at a slow message, whatever no child has begun goes back to the queue. Before that, all consumers that could
fetch something are dismissed: otherwise the same messages would come here again.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from typing import Protocol

from dts.runtime.service import Service
from dts.worker.pool.executor import Executor
from dts.worker.queues.consumers import Consumers
from dts.worker.queues.deliveries import Deliveries
from dts.worker.queues.in_flight import in_flight

INTERVAL = 0.05
"""Seconds between two measurements of the children."""


class Host(Protocol):
    """The worker, as far as its pace goes."""

    deliveries: Deliveries
    room: asyncio.Event
    """Set when there may be room for more work."""
    draining: bool

    @property
    def halted(self) -> bool:
        """Whether nothing may be taken at all."""

    @property
    def free_slots(self) -> int:
        """How many deliveries may be taken."""


class Pacer(Service):
    """Measures the pace of a worker's children, and has its consumers fetch accordingly."""

    def __init__(self, executor: Executor, consumers: Consumers, host: Host) -> None:
        super().__init__()
        self._executor, self._consumers, self._host = executor, consumers, host
        self._freed = asyncio.Event()

    async def _start(self) -> None:
        self._spawn(self._run(), "pacer")

    def wake(self) -> None:
        """Fetch more at once if little is fetched now: there may be room."""
        if self._consumers.tight:
            self._freed.set()

    async def _run(self) -> None:
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(INTERVAL):
                    await self._freed.wait()
            self._freed.clear()
            await self.adjust(time.monotonic())

    async def adjust(self, now: float) -> None:
        """Fetch more or less, and give back what waits too long, as of a time (monotonic, seconds)."""
        executor, host = self._executor, self._host
        executor.measure(now)
        if host.halted or host.draining:
            return
        if not executor.is_engaged(now):
            await self._consumers.adapt(ahead=executor.looks_ahead)
            if host.free_slots > 0:
                host.room.set()
        elif host.free_slots <= 0:
            leaving = host.deliveries.part_with(executor.take_waiting(lambda each: in_flight(each).is_untouched))
            try:
                await self._consumers.tighten()
            finally:  # nothing else refers to them any more
                host.deliveries.release(leaving)
