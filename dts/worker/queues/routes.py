"""The routes that a worker serves, each with its queue, and maybe a broker and a prefetch of its own."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import NamedTuple
from weakref import WeakKeyDictionary

from dts.broker import Broker, Consumer, open_broker
from dts.config import RouteSettings, WorkerSettings
from dts.runtime.service import Service
from dts.wire.queues import jobs_queue
from dts.worker.queues.publisher import Publisher


class _Far(NamedTuple):
    """A broker that belongs to routes."""

    broker: Broker
    publisher: Publisher
    opened: AsyncExitStack


class Routes(Service):
    """Opens the brokers that routes have of their own; results go to the worker's broker all the same."""

    def __init__(
        self, settings: WorkerSettings, broker: Broker, open_broker: Callable[[str], Broker] = open_broker
    ) -> None:
        super().__init__()
        self._open_broker = open_broker
        self._routes = _routes_of(settings)
        self._broker = broker
        self._brokers: dict[str, _Far] = {}  # by their URLs
        self._publisher_of: WeakKeyDictionary[Consumer, Publisher] = WeakKeyDictionary()

    @property
    def names(self) -> list[str]:
        """The names of the routes."""
        return list(self._routes)

    @property
    def all(self) -> list[RouteSettings]:
        """The routes."""
        return list(self._routes.values())

    @property
    def publishers(self) -> list[Publisher]:
        """Those to the brokers that belong to routes."""
        return [far.publisher for far in self._brokers.values()]

    async def _start(self) -> None:
        self._stack.push_async_callback(self._close_all)
        for route in self._routes.values():
            await self._open(route.broker)

    async def adopt(self, settings: WorkerSettings) -> None:
        """Know the routes of other settings. Brokers that no route has any more stay open until `close_unused`.

        Raises:
            ConfigError: a broker's URL can never work; the routes stay as they were.
        """
        routes = _routes_of(settings)
        for route in routes.values():
            await self._open(route.broker)
        self._routes = routes

    async def _open(self, url: str) -> None:
        if not url or url in self._brokers:
            return
        async with AsyncExitStack() as opening:
            broker = await opening.enter_async_context(self._open_broker(url))
            publisher = Publisher(broker)
            publisher.failed = self.failed
            await opening.enter_async_context(publisher)
            self._brokers[url] = _Far(broker, publisher, opening.pop_all())

    async def close_unused(self, needed: set[str]) -> None:
        """Close the brokers that no route has, but those whose URLs are `needed` for what was taken before."""
        needed = needed | {route.broker for route in self._routes.values()}
        for url in self._brokers.keys() - needed:
            await self._brokers.pop(url).opened.aclose()

    async def _close_all(self) -> None:
        while self._brokers:
            await self._brokers.popitem()[1].opened.aclose()

    async def consume(self, route: RouteSettings, prefetch: int) -> Consumer:
        """A consumer of the queue of a route, which may be one of before; `prefetch` holds unless it has its own."""
        far = self._brokers[route.broker] if route.broker else None
        broker = far.broker if far is not None else self._broker
        consumer = await broker.consume(jobs_queue(route.name), prefetch=route.prefetch or prefetch)
        if far is not None:
            self._publisher_of[consumer] = far.publisher
        return consumer

    def publisher(self, consumer: Consumer) -> Publisher | None:
        """The publisher to where a consumer consumes, if that is not the worker's broker."""
        return self._publisher_of.get(consumer)

    async def depth(self, *, limited: bool = True) -> int:
        """Messages that wait in all queues, or in those without a prefetch of their own. Raises BrokerUnavailable."""
        total = 0
        for route in self.all:
            if route.prefetch and not limited:
                continue
            far = self._brokers.get(route.broker)
            broker = far.broker if far is not None else self._broker
            total += (await broker.depth(jobs_queue(route.name))).ready
        return total


def _routes_of(settings: WorkerSettings) -> dict[str, RouteSettings]:
    own = {route.name: route for route in settings.route}
    return {name: own.get(name, RouteSettings(name)) for name in (*settings.routes, *own)}
