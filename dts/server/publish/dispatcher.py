"""Decides what is published next: of what is accepted and waits in the store, as much as workers take in half a second.

One process of all does it, whoever holds the lease. Its model is of runs with a backlog, never of blocks or jobs: read
from an index of the store when a server says that it has left something, and now and then. Each route has a task of its
own, so that a broker that is away keeps no other route waiting. It fills the route's queue up to a mark, in portions, a
message's worth to whose turn it is: by priority, and then to whoever was given least by weight so far. A block goes out
as far as its share goes; the store counts how many of its jobs were sent.

While a route has a backlog, servers are told of it and publish nothing there themselves.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import groupby, zip_longest

from cachetools import TTLCache

from dts.broker import Broker, Event, Message
from dts.config import ServerSettings
from dts.errors import BrokerUnavailable, StoreUnavailable
from dts.model import Backlog, Function, Unsent
from dts.runtime.service import Service
from dts.server.access.parties import Parties, PartiesOf
from dts.server.lookup.catalogue import Catalogue
from dts.server.lookup.fleet import Fleet
from dts.server.publish.decoded import DecodedBlocks
from dts.server.publish.fair import Path
from dts.server.publish.gate import gated, hold_back
from dts.server.publish.leader import Leader
from dts.server.publish.levels import Turn
from dts.server.publish.marks import Marks, route_of
from dts.server.publish.route_backlog import Leaf, RouteBacklog
from dts.server.publish.slices import block_messages
from dts.store import Store
from dts.wire.queues import TOPIC_BUSY, TOPIC_LEFT, TOPIC_SPEEDS, jobs_queue

logger = logging.getLogger(__name__)

_LOOK = 0.1  # seconds between two looks at the queue of a route that has a backlog: a fifth of what is kept in it
_LONGEST = 1.5
"""Seconds between two looks at what waits, at most: a look at a long backlog takes a tenth of the time, but the lease
has to be renewed in between."""

_SAY = 1.0  # seconds after which servers are told again which routes have a backlog
_BLOCKS = 200  # blocks of a leaf that are read at once
_BYTES = 16 * 1024 * 1024  # of messages that are published at once
_BROKEN = 60.0  # seconds until jobs are tried again that could not be made into messages
_MOST_BROKEN = 10_000  # runs of which that is remembered
_TIMEOUT = 30.0  # seconds that a publish may take
_PAUSES = 0.5, 5.0  # seconds before another try, the first time and at most


@dataclass(slots=True)
class _Portion:
    """What is published to a route at once: messages by run, and what is to be noted of blocks then."""

    messages: dict[Turn, list[Message]] = field(default_factory=dict)
    size: int = 0
    work: float = 0.0
    whole: list[str] = field(default_factory=list)
    sent: dict[str, int] = field(default_factory=dict)

    def add(self, turn: Turn, messages: Sequence[Message]) -> None:
        """Add messages of a leaf."""
        self.messages.setdefault(turn, []).extend(messages)
        self.size += sum(len(message.body) for message in messages)

    def note(self, each: Unsent, jobs: int) -> bool:
        """Note that so many more jobs of a block go out; whether it is done then."""
        if each.sent + jobs >= each.outcome.count:
            self.whole.append(each.outcome.block)
            return True
        self.sent[each.outcome.block] = each.sent + jobs
        return False

    def in_turns(self) -> list[Message]:
        """The messages, one of each leaf in turn; higher priorities first."""
        found: list[Message] = []
        by_priority = sorted(self.messages.items(), key=lambda each: -each[0].priority)
        for _, level in groupby(by_priority, key=lambda each: each[0].priority):
            rounds = zip_longest(*(messages for _, messages in level))
            found += [message for each in rounds for message in each if message is not None]
        return found


class Dispatcher(Service):
    """Publishes what waits. Several processes may have one; it does nothing where another leads."""

    def __init__(
        self, store: Store, broker: Broker, catalogue: Catalogue, settings: ServerSettings, *, interval: float
    ) -> None:
        super().__init__()
        self._store = store
        self._broker = broker
        self._catalogue = catalogue
        self._settings = settings
        self._interval = interval
        self._parties_of = PartiesOf(store, catalogue)
        self._leader = Leader(store, "dispatcher")
        self._marks = Marks(broker, Fleet(store), settings)
        self._blocks = DecodedBlocks(store)
        self._broken: TTLCache[Path, bool] = TTLCache(_MOST_BROKEN, _BROKEN)
        self._routes: dict[str, RouteBacklog] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._news = asyncio.Event()
        self._said: tuple[float, str] = (0.0, "")
        self._closing = False

    async def _start(self) -> None:
        self._stack.push_async_callback(self._leave)
        events = await self._broker.subscribe([TOPIC_LEFT, TOPIC_SPEEDS])
        self._stack.push_async_callback(events.close)
        self._spawn(self._consume_events(events, self.on_event, "dispatcher-events"), "dispatcher-events")
        self._spawn(self._lead(), "dispatcher")

    def on_event(self, event: Event) -> None:
        """Take in that a server has left something to be published, or how fast functions are."""
        if event.topic == TOPIC_SPEEDS:
            self._catalogue.on_speeds(event.payload)
        else:
            self._news.set()

    async def _leave(self) -> None:
        self._closing = True
        if self._tasks:  # what is being published is noted, or it would come again
            await asyncio.wait(self._tasks.values(), timeout=self._settings.shutdown_timeout / 2)
        for task in self._tasks.values():
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)
        with suppress(StoreUnavailable):  # others get it in some seconds
            await self._leader.close()

    async def _lead(self) -> None:
        pause = 0.0
        while True:
            began = time.monotonic()
            try:
                await self._refresh()
                pause = 0.0
            except (StoreUnavailable, BrokerUnavailable) as error:
                if not pause:
                    logger.warning("what waits to be published cannot be read now, trying again: %s", error)
                pause = _PAUSES[1] if pause else _PAUSES[0]
            except Exception:  # nor must a fault in what is read of one run
                logger.exception("what waits to be published cannot be read now, trying again")
                pause = _PAUSES[1]
            took = time.monotonic() - began if self._routes else 0.0
            await asyncio.sleep(pause or min(9 * took, _LONGEST))
            with suppress(TimeoutError):
                await asyncio.wait_for(self._news.wait(), self._interval)

    async def _refresh(self) -> None:
        """Read what waits, and have it published if this process leads."""
        self._news.clear()
        rows = await self._store.backlog()
        if rows and not await self._leader.leads():
            rows = []
            self._said = time.monotonic(), ""  # the leader tells servers what is busy
        by_route: dict[str, list[tuple[Backlog, Parties]]] = {}
        whose = {key: await self._parties_of(*key) for key in {(row.user, row.function) for row in rows}}
        for row in rows:
            parties = whose[row.user, row.function]
            by_route.setdefault(route_of(parties.function), []).append((row, parties))
        for route in self._routes.keys() | by_route.keys():
            model = self._routes.setdefault(route, RouteBacklog())
            model.update(by_route.get(route, []), time.monotonic(), without=self._broken)
            task = self._tasks.get(route)
            if model.leaves and (task is None or task.done()):
                self._tasks[route] = asyncio.create_task(self._serve(route), name=f"dispatcher-{route}")
                self._tasks[route].add_done_callback(self._on_task_done)
        await self._say_busy()

    async def _serve(self, route: str) -> None:
        """Publish what waits of a route until nothing does."""
        model = self._routes[route]
        pause = 0.0
        while model.leaves and self._leader.is_sure and not self._closing:
            try:
                filled = await self._fill(route, model)
                pause = 0.0
            except (StoreUnavailable, BrokerUnavailable) as error:
                if not pause:
                    logger.warning("what waits for route %s is not published now, trying again: %s", route, error)
                pause, filled = min(2 * pause or _PAUSES[0], _PAUSES[1]), True
            except Exception:  # a fault here must stop neither other routes nor the rest of timekeeper
                logger.exception("what waits for route %s is not published now, trying again", route)
                pause, filled = _PAUSES[1], True
            if filled and model.leaves:
                await asyncio.sleep(pause or _LOOK)
        if not model.leaves:
            await self._say_busy()

    async def _say_busy(self) -> None:
        """Tell servers which routes have a backlog: when that changes, and now and then while there are such."""
        busy = " ".join(sorted(route for route, model in self._routes.items() if model.leaves))
        when, said = self._said
        if busy != said or (busy and time.monotonic() >= when + _SAY):
            self._said = time.monotonic(), busy
            await self._broker.broadcast(TOPIC_BUSY, busy)

    async def _fill(self, route: str, model: RouteBacklog) -> bool:
        """Publish as much as there is room for in a route's queue, or a part of that; whether it is full then.

        Raises:
            BrokerUnavailable: not every message was confirmed; what was not noted comes again.
            StoreUnavailable: likewise.
        """
        room = await self._marks.look(route)
        if room <= 0:
            return True
        shares = model.share_out(room, self._message_of, time.monotonic())
        found = await self._store.backlog_blocks([(leaf.row, min(_BLOCKS, leaf.share_blocks)) for _, leaf in shares])
        portion = _Portion()
        for (turn, leaf), blocks in zip(shares, found, strict=True):
            await self._add_unless_broken(portion, model, turn, leaf, blocks)
        await self._publish(route, portion)
        if model.leaves:
            self._marks.filled(route)
        return portion.work >= room or not shares

    async def _add_unless_broken(
        self, portion: _Portion, model: RouteBacklog, turn: Turn, leaf: Leaf, blocks: Sequence[Unsent]
    ) -> None:
        """Add a share to a portion; what cannot be made into messages waits for a while, and keeps nobody else."""
        try:
            await self._add(portion, model, turn, leaf, blocks)
        except (StoreUnavailable, BrokerUnavailable):
            raise
        except Exception:  # whatever is in its blocks, jobs of other runs must go out
            self._broken[turn.path] = True
            model.remove(turn)
            logger.exception(
                "jobs of %s of user %s cannot be published (run %s): other jobs go on, these are tried again in %.0f s",
                leaf.row.function,
                leaf.row.user,
                leaf.row.run or "of single jobs",
                _BROKEN,
            )

    def _message_of(self, leaf: Leaf) -> tuple[int, float]:
        return self._marks.slice(leaf.parties.function, leaf.row.jobs)

    async def _add(
        self, portion: _Portion, model: RouteBacklog, turn: Turn, leaf: Leaf, blocks: Sequence[Unsent]
    ) -> None:
        """Add a leaf's share to a portion, from the blocks of it that are at hand; or have them wait at the gate."""
        if not blocks:
            model.remove(turn)
        if leaf.parties.limited:
            await hold_back(self._store, self._broker, [gated(each, turn.priority) for each in blocks], turn.priority)
            return
        left, done = leaf.share, 0
        for each in blocks:
            if left <= 0 or portion.size > _BYTES:
                break
            jobs = min(left, each.outcome.count - each.sent)
            portion.add(turn, await self._messages(each, jobs, leaf.parties.function))
            done += portion.note(each, jobs)
            left -= jobs
        model.sent(turn, leaf.share - left, done)
        portion.work += self._marks.work(leaf.parties.function, leaf.share - left)

    async def _messages(self, each: Unsent, jobs: int, function: Function | None) -> Sequence[Message]:
        """The messages of a block's next jobs that have not ended."""
        chosen = (1 << each.sent + jobs) - (1 << each.sent) & each.outcome.unfinished
        found = await self._blocks.get(each.outcome.block) if chosen else None
        if found is None:
            return ()
        return block_messages(*found, function, self._settings, jobs=chosen).messages

    async def _publish(self, route: str, portion: _Portion) -> None:
        messages = portion.in_turns()
        if not self._leader.is_sure:
            return  # another process may have taken over
        if messages:
            await self._broker.publish(jobs_queue(route), messages, timeout=_TIMEOUT)
            self._marks.learn(route, portion.work, len(messages))
        while True:  # until it is noted: it would be published again
            try:
                await self._store.note_sent(portion.sent)
                await self._store.mark_published(portion.whole)
            except StoreUnavailable as error:
                if not self._leader.is_sure:
                    raise
                logger.warning("could not record blocks as published, trying again: %s", error)
                await asyncio.sleep(_PAUSES[0])
            else:
                break
        for block in portion.whole:
            self._blocks.forget(block)
