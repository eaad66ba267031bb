"""The consumers of all routes that a worker serves, and what changes them while it goes on.

A shortage of the machine pauses all of them, a new configuration adds and removes some, and the two may come at the
same time. So they are done one after another, each to its end.
"""

from __future__ import annotations

import asyncio

from dts.config import RouteSettings, WorkerSettings
from dts.runtime.service import Service
from dts.worker.queues.route_consumer import RouteConsumer, Taker
from dts.worker.queues.routes import Routes


class Consumers(Service):
    """One RouteConsumer for each route. `slots` is how many deliveries each may hold together, at first.

    Those that are made `paused` fetch nothing until they are to resume.
    """

    def __init__(self, routes: Routes, slots: int, taker: Taker, *, paused: bool = False) -> None:
        super().__init__()
        self._routes, self._slots, self._taker = routes, slots, taker
        self._consumers: list[RouteConsumer] = []
        self._departing: dict[RouteConsumer, asyncio.Task[None]] = {}  # of routes that are not served any more
        self._changing = asyncio.Lock()
        self._paused, self._ceased = paused, False
        self.tight = False
        """Whether consumers were dismissed since no child would begin anything soon."""

    async def _start(self) -> None:
        self._stack.push_async_callback(self._stop_all)
        async with self._changing:
            for route in self._routes.all:
                await self._add(route)

    def check_prefetch(self) -> None:
        """Fetch more if there is room for more than the consumers may hold."""
        for consumer in self._consumers:
            consumer.check_prefetch()

    async def pause(self) -> None:
        """Fetch no more, and give back what was fetched and not taken, also of routes that come to be served."""
        async with self._changing:
            self._paused = True
            await asyncio.gather(*(consumer.pause() for consumer in self._consumers))

    async def resume(self) -> None:
        """Fetch again."""
        async with self._changing:
            self._paused = False
            for consumer in self._consumers:
                await consumer.resume()

    async def tighten(self) -> None:
        """Fetch nothing while no child will begin anything soon."""
        async with self._changing:
            for consumer in self._consumers:
                if await consumer.tighten():
                    self.tight = True

    async def adapt(self, *, ahead: bool) -> None:
        """Fetch what there is room for, and more `ahead` while messages are quick."""
        async with self._changing:
            self.tight = False
            for consumer in self._consumers:
                await consumer.adapt(ahead=ahead)

    async def cease(self) -> None:
        """Take no more; what was taken can be settled until the stop."""
        self._ceased = True
        await asyncio.gather(*(consumer.cease() for consumer in self._consumers))

    async def adopt(self, settings: WorkerSettings, slots: int) -> None:
        """Serve the routes of other settings, and with another number of slots.

        What was taken of a route that is not served any more can be settled still. Then its consumer ends, and its
        broker is closed if no other route has that.

        Raises:
            ConfigError: a broker's URL can never work; all stays as it was.
        """
        async with self._changing:
            try:
                await self._routes.adopt(settings)
                await self._change(slots)
            finally:
                await self._close_unused()

    async def _change(self, slots: int) -> None:
        wanted = self._routes.all
        for consumer in [consumer for consumer in self._consumers if consumer.route not in wanted]:
            await self._dismiss(consumer)
        if slots != self._slots:
            self._slots = slots
            for consumer in self._consumers:
                await consumer.resize(slots)
        served = {consumer.route for consumer in self._consumers}
        for route in wanted:
            if route not in served:
                await self._add(route)

    async def _add(self, route: RouteSettings) -> None:
        if self._ceased:
            return
        consumer = RouteConsumer(self._routes, route, self._slots, self._taker, paused=self._paused)
        consumer.failed = self.failed
        self._consumers.append(consumer)
        await consumer.start()

    async def _dismiss(self, consumer: RouteConsumer) -> None:
        """Have an consumer take nothing more, and end when it may."""
        await consumer.cease()
        await consumer.pause()
        self._consumers.remove(consumer)
        task = asyncio.create_task(self._see_off(consumer), name=f"end of {consumer.route.name}")
        task.add_done_callback(self._on_task_done)
        self._departing[consumer] = task

    async def _see_off(self, consumer: RouteConsumer) -> None:
        await consumer.wait_settled()
        async with self._changing:
            await consumer.stop()
            del self._departing[consumer]
            await self._close_unused()

    async def _close_unused(self) -> None:
        await self._routes.close_unused({consumer.route.broker for consumer in (*self._consumers, *self._departing)})

    async def _stop_all(self) -> None:
        self._ceased = True
        async with self._changing:
            # Each of these waits, for its deliveries or for the lock, and is in the middle of nothing.
            for task in self._departing.values():
                task.cancel()
            await asyncio.gather(*self._departing.values(), return_exceptions=True)
            for consumer in (*self._consumers, *self._departing):
                await consumer.stop()
            self._consumers.clear()
            self._departing.clear()
