"""Wakes requests that wait for results, when an event says that there are some."""

from __future__ import annotations

import asyncio
from collections import OrderedDict, defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import msgspec

from dts.broker import Broker, Event
from dts.runtime.service import Service
from dts.server.lookup.catalogue import Catalogue
from dts.wire import queues

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


class Hub(Service):
    """Listens to the broker's events, for the whole process."""

    def __init__(self, broker: Broker, catalogue: Catalogue) -> None:
        super().__init__()
        self._broker = broker
        self._catalogue = catalogue
        self._waiters: defaultdict[str, set[asyncio.Event]] = defaultdict(set)
        self._progress: OrderedDict[str, ProgressReport] = OrderedDict()
        self._partials = 0  # bytes of them in it

    async def _start(self) -> None:
        subscription = await self._broker.subscribe([queues.TOPIC_RESULTS, queues.TOPIC_SPEEDS, queues.TOPIC_PROGRESS])
        self._stack.push_async_callback(subscription.close)
        self._spawn(self._heed(subscription, self._on_event, "hub"), "hub")

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
        """Wake whoever waits for results of a run."""
        for waiter in self._waiters.get(run_id, ()):
            waiter.set()

    @asynccontextmanager
    async def waiter(self, run_id: str) -> AsyncIterator[asyncio.Event]:
        """An event that is set when there may be new results of a run, from the moment of entering."""
        event = asyncio.Event()
        self._waiters[run_id].add(event)
        try:
            yield event
        finally:
            self._waiters[run_id].discard(event)
            if not self._waiters[run_id]:
                del self._waiters[run_id]


def _size(told: ProgressReport | None) -> int:
    return len(memoryview(told.partials)) if told is not None else 0
