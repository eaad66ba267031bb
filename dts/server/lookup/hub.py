"""Wakes requests that wait for results: when an event says that there are some, and when one was lost.

A request that waits costs nothing while nothing happens. Events come from porter and from whoever else ends jobs; they
are hints that a broker may lose. So one sweep for all that wait looks into the store each second, at a bounded number
of runs: with more runs than that, each is looked at less often, and the cost stays what it is.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import islice

import msgspec

from dts.broker import Broker, Event
from dts.errors import StoreUnavailable
from dts.runtime.service import Service
from dts.server.lookup.catalogue import Catalogue
from dts.store import Store
from dts.wire import queues

logger = logging.getLogger(__name__)

SWEEP_SECONDS = 1.0
"""Seconds between two looks for results of which the event was lost."""

SWEEP_RUNS = 1000
"""Runs in one look, those that were looked at longest ago: a few milliseconds of the store."""

_MAX_PROGRESS = 10_000
"""Jobs whose progress is remembered: those that spoke last."""

_MAX_PARTIALS = 8 * 1024 * 1024
"""Bytes of what they have yielded that are remembered with it."""


_MAX_VERSION = 64
"""Characters of a function's version that are remembered."""


class ProgressReport(msgspec.Struct, array_like=True, frozen=True):
    """What a running job said last of itself: how much is done, of how much, and what it has yielded, a JSON array.

    It may have yielded nothing. `version` is that of its function.
    """

    done: float
    total: float
    partials: msgspec.Raw = msgspec.Raw()
    version: str = ""


@dataclass(slots=True)
class _Awaited:
    """A run that requests wait for, and how many uncollected results of it the last sweep has seen."""

    waiters: set[asyncio.Event] = field(default_factory=set)
    seen: int = 0


class Hub(Service):
    """Listens to the broker's events, for the whole process."""

    def __init__(self, broker: Broker, catalogue: Catalogue, store: Store) -> None:
        super().__init__()
        self._broker = broker
        self._catalogue = catalogue
        self._store = store
        self._awaited: OrderedDict[str, _Awaited] = OrderedDict()  # the run that was looked at longest ago first
        self._any_awaited = asyncio.Event()
        self._progress: OrderedDict[str, ProgressReport] = OrderedDict()
        self._partials = 0  # bytes of them in it

    async def _start(self) -> None:
        subscription = await self._broker.subscribe([queues.TOPIC_RESULTS, queues.TOPIC_SPEEDS, queues.TOPIC_PROGRESS])
        self._stack.push_async_callback(subscription.close)
        self._spawn(self._consume_events(subscription, self._on_event, "hub"), "hub")
        self._spawn(self._sweep(), "hub-sweep")

    def _on_event(self, event: Event) -> None:
        if event.topic == queues.TOPIC_SPEEDS:
            self._catalogue.on_speeds(event.payload)
        elif event.topic == queues.TOPIC_PROGRESS:
            self._on_progress(event.payload)
        else:
            for run_id in event.payload.split():
                self.wake(run_id)

    def _on_progress(self, payload: str) -> None:
        news = msgspec.json.decode(payload, type=dict[str, ProgressReport])
        for job, told in news.items():
            # Raw refers to the whole payload; what is kept must not keep that.
            partials = told.partials.copy() if bytes(told.partials) != b"[]" else msgspec.Raw()
            kept = ProgressReport(told.done, told.total, partials, told.version[:_MAX_VERSION])
            self._partials += _size(kept) - _size(self._progress.get(job))
            self._progress[job] = kept
            self._progress.move_to_end(job)
        while len(self._progress) > _MAX_PROGRESS or self._partials > _MAX_PARTIALS:
            self._partials -= _size(self._progress.popitem(last=False)[1])

    def progress_of(self, block: str, index: int) -> ProgressReport | None:
        """What a running job said last of itself; None if nothing was heard."""
        return self._progress.get(f"{block}.{index}")

    def wake(self, run_id: str) -> None:
        """Wake the requests that wait for results of a run."""
        if (awaited := self._awaited.get(run_id)) is not None:
            for waiter in awaited.waiters:
                waiter.set()

    @asynccontextmanager
    async def waiter(self, run_id: str) -> AsyncIterator[asyncio.Event]:
        """An event that is set when there may be new results of a run, from the moment of entering."""
        event = asyncio.Event()
        awaited = self._awaited.setdefault(run_id, _Awaited())
        awaited.waiters.add(event)
        self._any_awaited.set()
        try:
            yield event
        finally:
            awaited.waiters.discard(event)
            if not awaited.waiters and self._awaited.get(run_id) is awaited:
                del self._awaited[run_id]

    async def _sweep(self) -> None:
        """Wake, for good, the requests that no event has woken for results that are there."""
        while True:
            await self._any_awaited.wait()
            await asyncio.sleep(SWEEP_SECONDS)
            if not self._awaited:
                self._any_awaited.clear()
                continue
            await self._look(list(islice(self._awaited, SWEEP_RUNS)))

    async def _look(self, runs: list[str]) -> None:
        try:
            counts = await self._store.uncollected_counts(runs)
        except StoreUnavailable as error:
            # The requests that wait get the same error at their end, and are answered 503 then.
            logger.debug("the store was not asked for results whose event may be lost: %s", error)
            return
        for run in runs:
            if (awaited := self._awaited.get(run)) is None:
                continue
            self._awaited.move_to_end(run)
            if (count := counts.get(run, 0)) != awaited.seen:
                awaited.seen = count
                self.wake(run)


def _size(told: ProgressReport | None) -> int:
    return len(memoryview(told.partials)) if told is not None else 0
