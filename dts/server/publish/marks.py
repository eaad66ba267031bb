"""How much work waits in the queues of routes, and how much more should: about half a second of the workers' time.

So what is published next is decided half a second before it begins. Work is counted in seconds: of messages, by the
mean durations of their jobs, and of a queue, by its depth and the mean of the messages that went there last.
"""

from __future__ import annotations

from dataclasses import dataclass

from dts.broker import Broker
from dts.config import ServerSettings
from dts.model import DEFAULT_ROUTE, Function
from dts.server.intake.options import is_long, merged_options
from dts.server.lookup.fleet import Fleet
from dts.server.publish.slices import slice_size
from dts.wire import dts_pb2
from dts.wire.queues import jobs_queue

AHEAD = 0.5
"""Seconds of the workers' time that should wait in a queue."""

_LEAST = 0.002
"""Seconds that a message counts for at least: what it costs a worker beside its jobs."""

_UNKNOWN = 0.25
"""Seconds that a message of a function counts for whose speed is not known yet."""

_RECENT = 0.1
"""Weight of the newest message in the mean of a queue."""

_MOST_DRY = 16.0
"""How many times more work than AHEAD is published, at most, when a queue runs dry all the same: the durations that
are known are those of the past, and the children that are known those of a while ago."""


@dataclass(slots=True)
class _Queue:
    """What is known of a queue: seconds of work in a message, and room for more.

    `reserved` is the work that this process is publishing just now.
    """

    mean: float
    room: float
    reserved: float = 0.0
    factor: float = 1.0
    filled: bool = False


class Marks:
    """Room in queues, for one process."""

    def __init__(self, broker: Broker, fleet: Fleet, settings: ServerSettings) -> None:
        self._broker = broker
        self._fleet = fleet
        self._settings = settings
        self._queues: dict[str, _Queue] = {}

    def slice(self, function: Function | None, count: int) -> tuple[int, float]:
        """How many of `count` jobs a message of a function has, and how many seconds of work that is."""
        size = max(1, min(count, self._slice_size(function)))
        if function is None or function.mean_duration is None:
            return size, _UNKNOWN
        jobs = 1 if function.concurrent else size
        return size, max(_LEAST, jobs * function.mean_duration)

    def _slice_size(self, function: Function | None) -> int:
        long = is_long(
            merged_options(function, dts_pb2.Options(), self._settings.default_timeout),
            function,
            lease_after=self._settings.lease_after,
            lease_unlimited=self._settings.lease_unlimited,
        )
        if long:
            return 1
        return slice_size(function, seconds=self._settings.slice_seconds, max_slice=self._settings.max_slice)

    def work(self, function: Function | None, count: int) -> float:
        """Seconds of work in `count` jobs of a function."""
        size, seconds = self.slice(function, count)
        return -(-count // size) * seconds if count else 0.0

    def learn(self, route: str, work: float, messages: int) -> None:
        """Learn how long the messages take that were published to a route's queue."""
        queue = self._queue(route)
        weight = 1 - (1 - _RECENT) ** messages
        queue.mean += weight * (work / max(1, messages) - queue.mean)

    def fits(self, function: Function | None, count: int) -> bool:
        """Whether so many jobs of a function have room in their queue, as far as known; they count from then on.

        Where there is room at all, a single message has it, however long it takes: nothing shorter can be published.
        """
        queue, work = self._queue(route_of(function)), self.work(function, count)
        size, _ = self.slice(function, count)
        if queue.room <= 0 or (work > queue.room and count > size):
            return False
        queue.room -= work
        return True

    def is_low(self, route: str) -> bool:
        """Whether the room that is known of a queue is nearly used up: time to look how much there is by now."""
        return self._queue(route).room < AHEAD / 2

    def reserve(self, route: str, work: float) -> None:
        """Count work that is about to be published, until `settle`: a look at the queue does not see it."""
        self._queue(route).reserved += work

    def settle(self, route: str, work: float) -> None:
        """Count work no longer that was reserved: it is published, or will not be."""
        self._queue(route).reserved -= work

    async def look(self, route: str) -> float:
        """Look at a route's queue; returns the seconds of work that there is room for, not more than 0 if none.

        Raises:
            BrokerUnavailable: its broker does not answer.
            StoreUnavailable: nobody knows who serves the route.
        """
        queue = self._queue(route)
        slots = await self._fleet.children(route)
        depth = await self._broker.depth(jobs_queue(route))
        if queue.filled:
            queue.factor = min(queue.factor * 2, _MOST_DRY) if not depth.ready else max(queue.factor * 0.9, 1.0)
        queue.filled = False
        # One message at least, however long it takes: else a child that gets free would wait for the next look.
        most = max(slots * AHEAD * queue.factor, queue.mean)
        queue.room = most - depth.ready * queue.mean - queue.reserved
        return queue.room

    async def queued(self, route: str) -> tuple[int, float]:
        """How many messages wait in a route's queue, and about how many seconds of work they are.

        Raises:
            BrokerUnavailable: its broker does not answer.
        """
        depth = await self._broker.depth(jobs_queue(route))
        return depth.ready, depth.ready * self._queue(route).mean

    def filled(self, route: str) -> None:
        """Note that a queue was filled, and more waits: when it is dry at the next look, that was too little."""
        self._queue(route).filled = True

    def _queue(self, route: str) -> _Queue:
        if (known := self._queues.get(route)) is None:
            known = self._queues[route] = _Queue(mean=self._settings.slice_seconds, room=AHEAD)
        return known


def route_of(function: Function | None) -> str:
    """The route of a function's jobs."""
    return function.route if function is not None else DEFAULT_ROUTE
