"""The routes that a worker serves, each with its queue, and maybe a broker and a prefetch of its own."""

from __future__ import annotations

from dts.broker import Broker, Consumer, open_broker
from dts.config import RouteSettings, WorkerSettings
from dts.runtime.service import Service
from dts.wire.queues import jobs_queue
from dts.worker.publisher import Publisher


class Routes(Service):
    """Opens the brokers that routes have of their own; results go to the worker's broker all the same."""

    def __init__(self, settings: WorkerSettings, broker: Broker) -> None:
        super().__init__()
        self._routes = _routes_of(settings)
        self._broker = broker
        self._brokers: dict[str, tuple[Broker, Publisher]] = {}
        self._publisher_of: dict[Consumer, Publisher] = {}

    @property
    def names(self) -> list[str]:
        """The names of the routes."""
        return list(self._routes)

    @property
    def publishers(self) -> list[Publisher]:
        """Those to the brokers that belong to routes."""
        return [publisher for _, publisher in self._brokers.values()]

    async def _start(self) -> None:
        for route in self._routes.values():
            await self._open(route.broker)

    async def adopt(self, settings: WorkerSettings) -> tuple[set[str], set[str]]:
        """Know the routes of other settings; returns those that are not to be consumed as before, and the new ones.

        A route that has changed is in both. Brokers that no route has any more stay open until the stop.

        Raises:
            ConfigError: a broker's URL can never work.
        """
        before, after = self._routes, _routes_of(settings)
        for route in after.values():
            await self._open(route.broker)
        self._routes = after
        gone = {name for name, route in before.items() if after.get(name) != route}
        return gone, {name for name, route in after.items() if before.get(name) != route}

    async def _open(self, url: str) -> None:
        if url and url not in self._brokers:
            broker = await self._stack.enter_async_context(open_broker(url))
            publisher = Publisher(broker)
            publisher.failed = self.failed
            self._brokers[url] = broker, await self._stack.enter_async_context(publisher)

    def prefetch(self, name: str) -> int:
        """The prefetch that a route has of its own; 0 for none."""
        return self._routes[name].prefetch

    async def consume(self, name: str, prefetch: int) -> Consumer:
        """A consumer of a route's queue; `prefetch` holds unless the route has its own."""
        route = self._routes[name]
        broker, publisher = self._brokers.get(route.broker, (self._broker, None))
        consumer = await broker.consume(jobs_queue(name), prefetch=route.prefetch or prefetch)
        if publisher is not None:
            self._publisher_of[consumer] = publisher
        return consumer

    def publisher(self, consumer: Consumer) -> Publisher | None:
        """The publisher to where a consumer consumes, if that is not the worker's broker."""
        return self._publisher_of.get(consumer)

    async def depth(self) -> int:
        """Messages that wait in all queues. Raises BrokerUnavailable."""
        total = 0
        for name, route in self._routes.items():
            broker, _ = self._brokers.get(route.broker, (self._broker, None))
            total += (await broker.depth(jobs_queue(name))).ready
        return total


def _routes_of(settings: WorkerSettings) -> dict[str, RouteSettings]:
    own = {route.name: route for route in settings.route}
    return {name: own.get(name, RouteSettings(name)) for name in (*settings.routes, *own)}
