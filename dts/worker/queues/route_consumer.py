"""Takes deliveries of one route, no more of them than the worker has room for.

One consumer is nearly always there; its prefetch is the number of the worker's children. While messages are quick a
second one fetches as many ahead. Messages of an async function share a child, so there may be room for many more: then
further consumers are added, each half as large as all before it, and removed when what they fetch would only wait here.
While no child will begin anything soon, consumers that could fetch something are dismissed.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Protocol

from dts.broker import Consumer, Delivery
from dts.config import RouteSettings
from dts.runtime.backoff import Backoff
from dts.runtime.log_throttle import OutageLog
from dts.runtime.service import Service
from dts.worker.queues.deliveries import Deliveries
from dts.worker.queues.routes import Routes

logger = logging.getLogger(__name__)

LOOK_EVERY = 1.0
"""Seconds between checks whether fewer consumers are enough."""

_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 5.0  # seconds after a failure to receive

MAX_PREFETCH = 4096
"""Deliveries that the consumers of one route may hold together."""


class Taker(Protocol):
    """The worker, as far as it takes deliveries."""

    deliveries: Deliveries
    """Those that it has taken, of any route, and that are not settled."""
    room: asyncio.Event
    """Set when there may be room where there was none."""

    @property
    def free_slots(self) -> int:
        """How many deliveries may be taken now; none while it must not take any."""

    def take(self, consumer: Consumer, deliveries: list[Delivery]) -> None:
        """Take deliveries; there may be more than there are slots, or there may be none any more."""


class RouteConsumer(Service):
    """The consumers of one route. `slots` is the prefetch of the first one, unless the route has its own.

    One that is started `paused` fetches nothing until it is to resume. All but the stop can be asked for by one task at
    a time; this object itself adds and dismisses consumers meanwhile.
    """

    def __init__(self, routes: Routes, route: RouteSettings, slots: int, taker: Taker, *, paused: bool = False) -> None:
        super().__init__()
        self.route = route
        self._routes, self._slots, self._taker = routes, slots, taker
        self._active: dict[Consumer, int] = {}  # with their prefetch, oldest first
        self._ahead: Consumer | None = None  # the one of them that fetches ahead
        self._leaving: set[Consumer] = set()
        self._consuming: dict[Consumer, asyncio.Task[None]] = {}
        self._checking = asyncio.Event()
        self._settled = asyncio.Event()  # set while no consumer is leaving
        self._settled.set()
        self._paused = paused
        self._ceased = False
        self._outage = OutageLog(logger)

    async def _start(self) -> None:
        self._stack.push_async_callback(self._close_all)
        if not self._paused:
            await self.resume()
        if not self.route.prefetch:
            self._spawn(self._follow(), f"prefetch of {self.route.name}")
        self._spawn(self._tidy(), f"consumers of {self.route.name}")

    def _is_still(self) -> bool:
        return self._ceased or self._paused

    def check_prefetch(self) -> None:
        """Add a consumer if there is room for more than the consumers may hold."""
        self._checking.set()

    async def pause(self) -> None:
        """Fetch no more, and give back what was fetched and not taken; what was taken can be settled still."""
        self._paused = True
        for consumer in list(self._active):
            await self._dismiss(consumer)

    async def resume(self) -> None:
        """Fetch again."""
        self._paused = False
        if not self._active:
            await self._add(max(1, self._slots - len(self._taker.deliveries)))

    async def tighten(self) -> bool:
        """Fetch nothing while no child will begin anything soon; returns whether any consumer was dismissed.

        A consumer whose prefetch is used up stays until one of its deliveries is settled; so does one whose prefetch
        was configured.
        """
        spare = [each for each, size in self._active.items() if size > self._taker.deliveries.held_of({each})]
        if self.route.prefetch or self._is_still() or not spare:
            return False
        for consumer in spare:
            await self._dismiss(consumer)
        return True

    async def adapt(self, *, ahead: bool) -> None:
        """Fetch what there is room for, and more `ahead` while messages are quick."""
        free = self._taker.free_slots > 0
        if not self._active and free:
            await self._add(max(1, self._slots - len(self._taker.deliveries)))
        if free:
            self.check_prefetch()
        if ahead and self._ahead is None and self._active and not self.route.prefetch:
            self._ahead = await self._add(self._slots)
        elif not ahead and self._ahead is not None:
            await self._dismiss(self._ahead)

    async def resize(self, slots: int) -> None:
        """Fetch with another prefetch."""
        self._slots = slots
        if not self._paused:
            await self.pause()
            await self.resume()

    async def cease(self) -> None:
        """Take no more; what was taken can be settled until the stop."""
        self._ceased = True
        tasks = list(self._consuming.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def wait_settled(self) -> None:
        """Wait until nothing is left to do for what was taken, once it is paused."""
        await self._settled.wait()

    async def _add(self, prefetch: int) -> Consumer | None:
        """Begin to fetch with one consumer more, unless it is to fetch nothing."""
        if self._is_still():
            return None
        consumer = await self._routes.consume(self.route, prefetch)
        if self._ceased:  # by now
            await consumer.close()
            return None
        self._active[consumer] = prefetch
        task = asyncio.create_task(self._consume(consumer), name=f"consumer of {self.route.name}")
        task.add_done_callback(self._on_task_done)
        self._consuming[consumer] = task
        if self._paused:  # by now
            await self._dismiss(consumer)
        return consumer

    async def _consume(self, consumer: Consumer) -> None:
        """Hand over deliveries as long as there are slots for them."""
        taker, backoff = self._taker, Backoff(_FIRST_PAUSE, _LONGEST_PAUSE)
        while True:
            while (free := taker.free_slots) <= 0:
                taker.room.clear()
                await taker.room.wait()
            # Consumers that receive at the same time may take more together than there are slots; prefetch bounds it.
            try:
                deliveries = await consumer.receive(max(free // len(self._consuming), 1))
            except Exception as error:  # noqa: BLE001 - a message that the broker's own code cannot read, for instance
                self._outage.failed("%s: no message can be received, trying again: %r", self.route.name, error)
                await backoff.wait()
                continue
            if not deliveries:
                return  # it was cancelled, or the broker was closed
            self._outage.worked("%s: messages can be received again", self.route.name)
            backoff.reset()
            taker.take(consumer, deliveries)

    async def _dismiss(self, consumer: Consumer) -> None:
        """Have a consumer fetch no more; it is closed when what is in the worker's hands is settled."""
        task = self._consuming.pop(consumer, None)
        if task is None:
            return  # it is dismissed already, by a pause or by _tidy
        self._active.pop(consumer, None)
        if consumer is self._ahead:
            self._ahead = None
        self._leaving.add(consumer)
        self._settled.clear()
        task.cancel()  # before anything else is awaited, so that `_consuming` has every task that takes deliveries
        await asyncio.wait([task])
        await consumer.cancel()

    def _counts(self) -> tuple[int, int]:
        """How many deliveries the consumers may hold together, and how many of them are in the worker's hands."""
        return sum(self._active.values()), self._taker.deliveries.held_of(set(self._active))

    async def _follow(self) -> None:
        """Add consumers while all that there are may hold is at work, and there is room for more."""
        while True:
            await self._checking.wait()
            self._checking.clear()
            most, held = self._counts()
            if held < most or self._taker.free_slots <= 0 or not self._active or most >= MAX_PREFETCH:
                continue
            await self._add(max(self._slots, most // 2))

    async def _tidy(self) -> None:
        """Close consumers that are not needed any more; dismiss the last ones while the rest are enough."""
        while True:
            await asyncio.sleep(LOOK_EVERY)
            for consumer in [consumer for consumer in self._leaving if not self._taker.deliveries.has_any_of(consumer)]:
                await consumer.close()
                self._leaving.discard(consumer)
            if not self._leaving:
                self._settled.set()
            while (last := self._last()) is not None and self._could_do_without(last):
                await self._dismiss(last)

    def _last(self) -> Consumer | None:
        """The consumer that is taken away first, of several."""
        several = [consumer for consumer in self._active if consumer is not self._ahead]
        return several[-1] if len(several) > 1 else None

    def _could_do_without(self, consumer: Consumer) -> bool:
        most, held = self._counts()
        spare = most - self._active[consumer] - held
        # Without free slots, what more could be fetched would wait here while other workers may be idle.
        return spare >= self._slots or (spare >= 0 and self._taker.free_slots <= 0)

    async def _close_all(self) -> None:
        await self.cease()
        for consumer in (*self._active, *self._leaving):
            await consumer.close()
