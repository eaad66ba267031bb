"""The deliveries that a worker holds. Each is settled here, once nothing is left to wait for."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from functools import partial

from dts.broker import Consumer, Delivery, Message
from dts.wire.queues import RESULTS
from dts.worker.events import EventCounter, Events
from dts.worker.pool.child_process import Assignment
from dts.worker.queues.in_flight import InFlight, in_flight
from dts.worker.queues.publisher import Publisher
from dts.worker.queues.routes import Routes
from dts.worker.queues.settler import Settler

logger = logging.getLogger(__name__)

MAX_FAILURES = 3
"""Hand-overs of a message after which it is a dead letter if a worker cannot handle it: the first may have been bad
luck, such as a want of memory, and another worker may be of another version."""


class Deliveries:
    """Holds deliveries, publishes what comes of them, and settles them. Calls `on_settled` after each."""

    def __init__(
        self,
        routes: Routes,
        publisher: Publisher,
        settler: Settler,
        events: EventCounter,
        on_settled: Callable[[], None],
    ) -> None:
        self._routes, self._publisher, self._settler = routes, publisher, settler
        self._events, self._on_settled = events, on_settled
        self._held: set[InFlight] = set()
        self.last_taken = 0.0
        """The time (monotonic) at which the last delivery came."""

    def __len__(self) -> int:
        return len(self._held)

    def held_of(self, consumers: set[Consumer]) -> int:
        """How many deliveries of some consumers are not settled."""
        return sum([not (each.settled or each.leaving) and each.consumer in consumers for each in self._held])

    def has_any_of(self, consumer: Consumer) -> bool:
        """Whether a delivery of a consumer is still held, or is being settled."""
        return self._settler.has_any_of(consumer) or any(each.consumer is consumer for each in self._held)

    def has_run(self, runs: set[str]) -> bool:
        """Whether any delivery belongs to one of some runs."""
        return any(each.run in runs for each in self._held)

    def add(self, held: InFlight) -> None:
        """Hold a delivery from here on."""
        self._held.add(held)
        self.last_taken = time.monotonic()

    def count_received(self, held: InFlight) -> None:
        """Count the jobs of a delivery as received."""
        held.received = held.count
        self._events.add(held.function, Events.RECV, held.received)

    # what comes of a delivery

    def publish_results(self, held: InFlight, message: Message) -> None:
        """Publish results; the delivery is not acked before they are confirmed."""
        held.open += 1
        self._publisher.put(RESULTS, message, partial(self.close, held), partial(self.fail, held))

    def give_away(self, held: InFlight, message: Message, jobs: int = 0) -> None:
        """Publish some of its jobs for other workers to run; `jobs` of them were counted as received here."""
        self._uncount(held, jobs)
        held.open += 1
        publisher = self._routes.publisher(held.consumer) or self._publisher
        publisher.put(held.delivery.queue, message, partial(self.close, held), partial(self.fail, held))

    def claim(self, held: InFlight, message: Message, on_recorded: Callable[[], None]) -> None:
        """Publish a lease for its jobs; once that is confirmed, ack the delivery and call `on_recorded`."""
        held.open += 1
        self._publisher.put(RESULTS, message, partial(self._on_claimed, held, on_recorded), partial(self.fail, held))

    def _on_claimed(self, held: InFlight, on_recorded: Callable[[], None]) -> None:
        if not held.settled:
            held.settled = True
            self._settler.ack(held.consumer, held.delivery)
        on_recorded()
        self.close(held)

    # settling

    def close(self, held: InFlight) -> None:
        """Note that one thing is done that a delivery waits for; after the last one it is acked."""
        held.open -= 1
        if held.open == 0 and not held.closed:
            if not held.settled:
                self._settler.ack(held.consumer, held.delivery)
            self._drop(held)

    def reject(self, held: InFlight, reason: str) -> None:
        """Send a message that no worker can handle to the dead letters."""
        if held.closed:
            return
        logger.error(
            "a message of %s, run %s, goes to the dead letters: %s", held.function or "no function", held.run, reason
        )
        if not held.settled:
            self._settler.reject(held.consumer, held.delivery, reason)
        self._drop(held)

    def fail(self, held: InFlight, error: Exception) -> None:
        """Give back a message that raised an error here, which counts; a dead letter after MAX_FAILURES hand-overs.

        Whatever is in a message, and whatever is wrong with this code, costs that message alone.
        """
        if held.closed:
            return
        said = f"{type(error).__name__}: {error}"
        if held.delivery.count + 1 >= MAX_FAILURES:
            self.reject(held, f"{held.delivery.count + 1} attempts to handle it raised an error, the last one {said}")
            return
        logger.error(
            "a message of %s, run %s, cannot be handled and goes back to its queue: %s",
            *(held.function or "no function", held.run, said),
            exc_info=error,
        )
        self._uncount(held, held.received)
        if not held.settled:
            self._settler.nack(held.consumer, held.delivery)
        self._drop(held)

    def release_unseen(self, consumer: Consumer, delivery: Delivery) -> None:
        """Give back a delivery that was never held."""
        self._settler.release(consumer, delivery)

    def part_with(self, assignments: Sequence[Assignment]) -> list[InFlight]:
        """Count untouched deliveries no more, which are to be released."""
        leaving = [in_flight(assignment) for assignment in assignments]
        for held in leaving:
            held.leaving = True
            self._uncount(held, held.received)
        return leaving

    def release(self, leaving: Sequence[InFlight]) -> None:
        """Give back untouched deliveries."""
        for held in leaving:
            self._settler.release(held.consumer, held.delivery)
            self._drop(held)

    def _uncount(self, held: InFlight, jobs: int) -> None:
        """Count jobs no more as received, as another worker is to run them."""
        jobs = min(jobs, held.received)
        held.received -= jobs
        self._events.add(held.function, Events.RECV, -jobs)

    def _drop(self, held: InFlight) -> None:
        held.settled = held.closed = True
        self._held.discard(held)
        self._on_settled()

    async def wait_idle(self) -> None:
        """Wait until all that was published is confirmed, and all that was settled is so at the broker."""
        for publisher in (self._publisher, *self._routes.publishers):
            await publisher.wait_idle()
        await self._settler.wait_idle()
