"""Publishes accepted blocks while their route has no backlog: at once, off the path of the request that brought them.

A block in the store is a promise; this is the fast way to keep it. The block is claimed from its insert on, so nobody
else publishes it while this process is at it. Everything else is the dispatcher's: while a route has a backlog, or a
block has more work than its queue has room for, it is inserted without a claim; what waits too long for a broker that
is away is released. So memory stays bounded, and nothing depends on this process.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import replace
from typing import NamedTuple

from dts.broker import Broker, Event, Message
from dts.config import ServerSettings
from dts.errors import BrokerUnavailable, StoreUnavailable
from dts.model import Block, Claim, Function
from dts.runtime.service import Service
from dts.server.access.parties import PartiesOf
from dts.server.publish.claims import Claims
from dts.server.publish.marks import Marks, route_of
from dts.server.publish.slices import block_messages
from dts.server.record.blocks import outcomes_of
from dts.store import Store
from dts.wire import dts_pb2
from dts.wire.queues import TOPIC_BUSY, TOPIC_LEFT

logger = logging.getLogger(__name__)

_MAX_PENDING = 256
"""Blocks waiting to be published; further ones are left to the dispatcher."""

_MAX_BYTES = 64 * 1024 * 1024
"""Bytes of messages that wait or are on their way to the broker; what does not fit is left to the dispatcher."""

_OVERHEAD = 512
"""Bytes that a message takes beside its body, about."""

_FRESH = 2.0
"""Seconds in which a block is published without a look whether jobs of it were cancelled meanwhile."""

_TIMEOUT = 60.0
"""Seconds that a publish may take before its blocks are left to the dispatcher. Most messages of a broker that is
merely slow are stored by then, and published once more, so this is the time after which a broker counts as broken."""

_GATHER = 0.1  # seconds
_LOOK = 0.1  # seconds between two looks at a queue that has no room
_MOMENT = 0.02  # seconds between two events to the dispatcher
_BELIEVED = 3.0
"""Seconds for which what the dispatcher said of backlogs holds: it says it each second while there are such."""
_MARK_AGAIN = 1.0  # seconds


class _Entry(NamedTuple):
    """A block without its body, its messages, the bytes of memory that they take, and when it came (monotonic
    seconds)."""

    block: Block
    messages: list[Message]
    size: int
    work: float
    function: Function | None
    came: float


class Publisher(Service):
    """Turns blocks into messages, publishes them, and notes that they are published."""

    def __init__(
        self,
        store: Store,
        broker: Broker,
        settings: ServerSettings,
        *,
        parties_of: PartiesOf,
        claims: Claims,
        marks: Marks,
    ) -> None:
        super().__init__()
        self.parties_of = parties_of
        self.claims = claims
        self._marks = marks
        self._store = store
        self._broker = broker
        self._settings = settings
        self._pending: defaultdict[str, list[_Entry]] = defaultdict(list)
        self._waiting = 0
        self._held = 0
        self._confirmed: list[str] = []
        self._has_pending = asyncio.Event()
        self._has_confirmed = asyncio.Event()
        self._unsettled = 0
        self._flushing = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._busy: frozenset[str] = frozenset()
        self._busy_until = 0.0
        self._has_left = asyncio.Event()
        self._wanted: set[str] = set()
        self._is_wanted = asyncio.Event()

    async def _start(self) -> None:
        events = await self._broker.subscribe([TOPIC_BUSY])
        self._stack.push_async_callback(events.close)
        self._spawn(self._consume_events(events, self.on_event, "publisher-events"), "publisher-events")
        self._spawn(self._say_left(), "publisher-left")
        self._spawn(self._look_for_room(), "publisher-room")
        self._spawn(self._publish_all(), "publisher")
        self._spawn(self._mark_all(), "publisher-marks")
        self._stack.push_async_callback(self._flush)

    async def claim(self, blocks: Iterable[tuple[Block, Function | None]]) -> Claim | None:
        """The claim to insert blocks with that are to be submitted; None to leave them to the dispatcher.

        Raises:
            StoreUnavailable: nobody knows whether they may be published.
        """
        if self._waiting >= _MAX_PENDING:
            return None
        for block, function in blocks:
            route = route_of(function)
            if block.not_before or self._is_busy(route):
                return None
            parties = await self.parties_of(block.user, block.function)
            if parties.paused or parties.limited:
                return None
            fits = self._marks.fits(function, block.count)
            if self._marks.is_low(route):
                self._wanted.add(route)
                self._is_wanted.set()
            if not fits:
                return None
        return self.claims.new()

    def submit(self, block: Block, batch: dts_pb2.JobBatch, function: Function | None, claim: Claim | None) -> None:
        """Publish a block soon, or leave it to the dispatcher if it has no claim.

        `batch` has its jobs, `function` tells route and speed. It was inserted under `claim`.
        """
        if claim is None:
            self.leave()
            return
        if self._held + len(block.body) > _MAX_BYTES:
            self._release([block.id])
            return
        post = block_messages(block, batch, function, self._settings)
        size = sum(len(message.body) + _OVERHEAD for message in post.messages)
        if self._held + size > _MAX_BYTES:
            self._release([block.id])
            return
        self.claims.hold([block.id], claim)
        work = self._marks.work(function, block.count)
        self._marks.reserve(route_of(function), work)
        self._unsettled += 1
        self._waiting += 1
        self._held += size
        self._idle.clear()
        entry = _Entry(replace(block, body=b""), post.messages, size, work, function, time.monotonic())
        self._pending[post.queue].append(entry)
        self._has_pending.set()

    def on_event(self, event: Event) -> None:
        """Take in which routes have a backlog."""
        self._busy = frozenset(event.payload.split())
        self._busy_until = time.monotonic() + _BELIEVED

    def _is_busy(self, route: str) -> bool:
        return route in self._busy and time.monotonic() < self._busy_until

    def leave(self) -> None:
        """Tell the dispatcher that something waits, once for all that comes within a moment."""
        self._has_left.set()

    def _release(self, block_ids: Iterable[str]) -> None:
        self.claims.release(block_ids)
        self.leave()

    async def _say_left(self) -> None:
        while True:
            await self._has_left.wait()
            self._has_left.clear()
            await self.claims.flush()
            await self._broker.broadcast(TOPIC_LEFT, "")
            await asyncio.sleep(_MOMENT)

    # What a loop's local variables name lives until the next turn, which may never come: the turns are methods.

    async def _publish_all(self) -> None:
        while True:
            await self._has_pending.wait()
            await self._publish_pending()

    async def _publish_pending(self) -> None:
        self._has_pending.clear()
        pending, self._pending = self._pending, defaultdict(list)
        self._waiting = 0
        while pending:
            await self._publish_entries(*pending.popitem())

    async def _publish_entries(self, queue: str, entries: list[_Entry]) -> None:
        ids = [entry.block.id for entry in entries]
        try:
            free = await self._without_ended(entries)
            mine = await self.claims.sure_of([entry.block.id for entry in free])
            free = [entry for entry in free if entry.block.id in mine]
            if free:
                messages = [message for entry in free for message in entry.messages]
                await self._broker.publish(queue, messages, timeout=_TIMEOUT)
                self._marks.learn(route_of(free[0].function), sum(entry.work for entry in free), len(messages))
        except (BrokerUnavailable, StoreUnavailable) as error:
            logger.warning("%d blocks are left to the dispatcher: %s", len(entries), error)
            self._settle(len(entries))
            self._release(ids)
        else:
            self._settle(len(entries) - len(free))
            published = [entry.block.id for entry in free]
            self._release(set(ids) - set(published))
            if published:
                self._confirmed += published
                self._has_confirmed.set()
        finally:
            self._held -= sum(entry.size for entry in entries)
            for entry in entries:
                self._marks.settle(route_of(entry.function), entry.work)

    async def _look_for_room(self) -> None:
        """See how much room there is by now in queues that had none, until they have."""
        while True:
            await self._is_wanted.wait()
            self._is_wanted.clear()
            routes, self._wanted = self._wanted, set()
            full = await asyncio.gather(*map(self._is_full, routes))  # a broker of its own may be away for one of them
            self._wanted |= {route for route, is_full in zip(routes, full, strict=True) if is_full}
            await asyncio.sleep(_LOOK)
            if self._wanted:
                self._is_wanted.set()

    async def _is_full(self, route: str) -> bool:
        """Whether a queue has no room, as far as known."""
        try:
            return await self._marks.look(route) <= 0
        except (BrokerUnavailable, StoreUnavailable) as error:
            logger.info("room in the queue of route %s is not known now: %s", route, error)
            return True

    async def _without_ended(self, entries: list[_Entry]) -> list[_Entry]:
        """Leave those to the dispatcher that have waited, and of which jobs have ended meanwhile; the others."""
        now = time.monotonic()
        late = [entry.block.id for entry in entries if now - entry.came > _FRESH]
        if not late:
            return entries
        outcomes = await outcomes_of(self._store, late)
        untouched = {block for block, outcome in outcomes.items() if not outcome.ended}
        ended = set(late) - untouched
        return [entry for entry in entries if entry.block.id not in ended]

    async def _mark_all(self) -> None:
        while True:
            await self._has_confirmed.wait()
            await self._wait_for_more()
            await self._mark_confirmed()

    async def _mark_confirmed(self) -> None:
        self._has_confirmed.clear()
        confirmed, self._confirmed = self._confirmed, []
        try:
            await self._store.mark_published(confirmed)
        except StoreUnavailable as error:
            logger.warning("could not record %d blocks as published, trying again: %s", len(confirmed), error)
            self._confirmed += confirmed
            self._has_confirmed.set()
            await asyncio.sleep(_MARK_AGAIN)
        else:
            self.claims.settle(confirmed)
            self._settle(len(confirmed))

    async def _wait_for_more(self) -> None:
        """Let confirmed blocks gather, so that they are marked together and out of the way of the first results."""
        try:
            await asyncio.wait_for(self._flushing.wait(), _GATHER)
        except TimeoutError:
            return

    def _settle(self, count: int) -> None:
        self._unsettled -= count
        if self._unsettled == 0:
            self._idle.set()

    async def _flush(self) -> None:
        """Let what is pending go out before the process ends; what does not, the dispatcher finds."""
        self._flushing.set()
        try:
            await asyncio.wait_for(self._idle.wait(), self._settings.shutdown_timeout / 2)
        except TimeoutError:
            logger.warning("blocks that are not published are left to the dispatcher")
