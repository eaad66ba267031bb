"""Keeps the limits of jobs at work: as many of a user, namespace, function, route or key as it may have, no more.

Jobs of those without such a limit never come here. Others are not published when they are accepted, or due for another
attempt: they wait in the store as a gated slice. One timekeeper of all, who holds the gate, lets as many go as there
is room for: the limit less what is in flight, which is what was published and has neither ended nor waits; and of a
function with a rate, as many as there are tokens in its bucket. It looks whenever results were recorded, and when there
is another token.

A release is three steps: the slice notes which of its jobs are let go, their messages are published, and the note is
struck out. Whoever takes the gate over publishes what such notes name, so a crash may have a job published twice.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections import defaultdict
from collections.abc import Sequence
from itertools import islice

from dts.broker import Broker, Event, Message
from dts.config import ServerSettings
from dts.errors import RouteUnavailable
from dts.model import DelayedSlice, Function, Unsent, bitmap
from dts.model.ranges import PRIORITY
from dts.server.access.parties import PartiesOf, Subject
from dts.server.lookup.catalogue import Catalogue
from dts.server.publish.buckets import TokenBucket
from dts.server.publish.decoded import DecodedBlocks
from dts.server.publish.in_flight import in_flight
from dts.server.publish.keys import KeyLimits, KeyRooms
from dts.server.publish.leader import Leader
from dts.server.publish.slices import delayed_messages
from dts.server.record.blocks import outcomes_of
from dts.store import Store
from dts.store.contract.gate import GatedGroup, Release
from dts.wire.queues import TOPIC_GATED

logger = logging.getLogger(__name__)

_NAME = "gate"
_LOOK = 1.0  # seconds after which to look whether somebody new waits, however much there is to do
_REST = 9  # times as long as a look at everything took: it takes a tenth of the time at most
_SLICES = 50  # read at once
_KEYED_SLICES = 2000  # read at once where jobs of later ones may go before those of the first
_UNLIMITED = 10**9
_LEVEL = 1e10  # between the places of two priorities: more seconds than any clock has counted
_SPREAD = 16
"""Messages that the room of a limit is spread over at least: jobs in one message run one after the other."""

_AT_ONCE = 10
"""Blocks that are asked for at once: one by one, single jobs would cost a round trip each, and bodies may be large."""

_NAMED = 10_000
"""Blocks that the store is asked about by name; of more it is cheaper to have a look at all."""


def place_at_gate(priority: int) -> float:
    """Where jobs of a priority that come now stand among those that wait: the lowest goes first."""
    return (PRIORITY.high + 1 - priority) * _LEVEL + time.time()


def gated(each: Unsent, priority: int) -> DelayedSlice:
    """How a block waits at the gate: the jobs that are not published, for their first attempt."""
    block, place = each.outcome, place_at_gate(priority)
    jobs = block.unfinished >> each.sent << each.sent
    return DelayedSlice(
        f"{block.block}.gate", block.block, block.run, block.user, block.function, place, jobs=jobs, gated=True
    )


async def hold_back(store: Store, broker: Broker, slices: Sequence[DelayedSlice], priority: int) -> None:
    """Have slices wait at the gate: new ones of accepted blocks, and those in the store that are due, of a priority.

    Raises:
        StoreUnavailable: some may wait there; the same again is harmless.
    """
    if new := [each for each in slices if each.gated]:
        await store.add_delayed(new)
        await store.mark_published([each.block for each in new])
    if due := [each.id for each in slices if not each.gated]:
        await store.gate_delayed(due, due=place_at_gate(priority))
    await broker.broadcast(TOPIC_GATED, "new")


class Gate:
    """Lets jobs go. Several processes may have one; it does nothing where another holds it."""

    def __init__(self, store: Store, broker: Broker, catalogue: Catalogue, settings: ServerSettings) -> None:
        self._store = store
        self._broker = broker
        self._catalogue = catalogue
        self._settings = settings
        self._parties_of = PartiesOf(store, catalogue)
        self._leader = Leader(store, _NAME)
        self._term = 0
        self._unsure = True
        self._groups: list[GatedGroup] = []
        self._look_at = -math.inf
        self._flying: dict[tuple[str, str], tuple[float, set[str]]] = {}
        self._rest = 0.0
        self._next_token = math.inf
        self._buckets: dict[str, TokenBucket] = {}
        self._news = asyncio.Event()
        self._blocks = DecodedBlocks(store)
        self._keys = KeyLimits(store, self._blocks)

    def on_event(self, event: Event) -> None:
        """Take in that results were recorded, or that jobs have come to the gate."""
        if event.topic == TOPIC_GATED:
            self._look_at = -math.inf
        if self._groups or event.topic == TOPIC_GATED:
            self._news.set()

    async def wait(self, seconds: float) -> None:
        """Wait until it is worth while to look, at most so many seconds."""
        # Looks in vain, at every result of somebody else, take half of the time at most.
        await asyncio.sleep(self._rest)
        try:
            await asyncio.wait_for(self._news.wait(), min(seconds, self._next_token))
        except TimeoutError:
            if seconds <= self._next_token:
                self._look_at = -math.inf

    async def close(self) -> None:
        """Leave the gate to others.

        Raises:
            StoreUnavailable: they get it in some seconds.
        """
        await self._leader.close()

    async def release(self) -> int:
        """Let go as many jobs as there is room for; returns how many.

        Raises:
            BrokerUnavailable: not every message was confirmed; what was let go is published by the next call.
            StoreUnavailable: the store does not answer; likewise.
        """
        self._news.clear()
        self._next_token = math.inf
        begun = time.monotonic()
        if begun >= self._look_at:
            turn = {group[:2]: at for at, group in enumerate(self._groups)}
            found = await self._store.gated_groups()
            self._groups = sorted(found, key=lambda group: turn.get(group[:2], len(turn)))
            now = time.monotonic()
            self._look_at = now + max(_LOOK, _REST * (now - begun))
        released = 0
        if self._groups and await self._is_mine():
            self._groups.sort(key=lambda group: int(group.first // _LEVEL))
            away = await self._finish_releases()
            term, rooms = self._term, dict[tuple[str, str], int]()
            for group in list(self._groups):
                if term != self._term:  # somebody else may have been here in between: see how much room there is
                    break
                if group.function in away:
                    continue
                try:
                    count = await self._release_group(group, rooms, term)
                except RouteUnavailable as error:
                    _put_off(group.function, error)
                    away.add(group.function)
                    rooms.clear()  # what was let go before the broker was found away has taken some of it
                    continue
                released += count
                if count and group in self._groups:  # who share a limit take turns, within a priority
                    self._groups.remove(group)
                    self._groups.append(group)
        self._rest = 0.0 if released else min(time.monotonic() - begun, _LOOK)
        return released

    async def _is_mine(self) -> bool:
        """Whether this process holds the gate; asks for it now and then."""
        leads = await self._leader.leads()
        if self._term != self._leader.term:
            self._term = self._leader.term
            self._unsure = True
            self._flying.clear()
        return leads

    async def _finish_releases(self) -> set[str]:
        """Publish what somebody let go who did not get to publish it; returns the functions whose broker is away."""
        away: set[str] = set()
        while self._unsure and not away:
            slices = await self._store.list_released(limit=_SLICES)
            by_function: defaultdict[str, list[tuple[DelayedSlice, int]]] = defaultdict(list)
            for each, unfinished in await self._unfinished(slices):
                by_function[each.function].append((each, each.released & unfinished))
            for name, jobs in by_function.items():
                try:
                    await self._publish(jobs, await self._catalogue.get(name), most=1)
                except RouteUnavailable as error:
                    away.add(name)
                    _put_off(name, error)
            self._unsure = bool(away) or len(slices) == _SLICES
        return away

    async def _release_group(self, group: GatedGroup, rooms: dict[tuple[str, str], int], term: int) -> int:
        """Let go jobs of a user and a function as far as there is room for all whose limits they come under."""
        user, function_name, _ = group
        parties = await self._parties_of(user, function_name)
        if parties.paused:
            return 0
        function, subjects = parties.function, parties.limited
        await self._look_for_rooms(subjects, rooms)
        bucket, keys = self._bucket(function), await self._key_rooms(function)
        limits = (subject.limits.running or _UNLIMITED for subject in subjects)
        most = max(1, min(limits, default=_UNLIMITED) // _SPREAD)
        released = 0
        while await self._is_mine() and term == self._term:
            room = min((rooms[subject.kind, subject.id] for subject in subjects), default=_UNLIMITED)
            room = min(room, bucket.available(time.monotonic())) if bucket is not None else room
            if room <= 0:
                break
            limit = _KEYED_SLICES if keys is not None else min(room, _SLICES)
            slices = await self._store.list_gated(user, function_name, limit=limit)
            for subject in subjects:
                self._flying[subject.kind, subject.id][1].update(each.block for each in slices)
            count = await self._release(slices, room, function, most, keys)
            released += count
            for subject in subjects:
                rooms[subject.kind, subject.id] -= count
            if not slices:
                self._groups.remove(group)
            if not slices or (keys is not None and not count):
                break
        self._wake_for(bucket, keys)
        return released

    async def _look_for_rooms(self, subjects: Sequence[Subject], rooms: dict[tuple[str, str], int]) -> None:
        """How many more jobs may run of those of whom that is not known yet."""
        for subject in subjects:
            if (subject.kind, subject.id) not in rooms:
                at_work, most = await self._in_flight(subject), subject.limits.running
                rooms[subject.kind, subject.id] = _UNLIMITED if most is None else most - at_work

    def _bucket(self, function: Function | None) -> TokenBucket | None:
        """The bucket of a function that has a rate."""
        rate = function.limits.starts_per_second if function is not None else None
        if function is None or rate is None:
            return None
        known = self._buckets.get(function.name)
        if known is None or known.rate != rate:
            known = self._buckets[function.name] = TokenBucket(rate)
        return known

    async def _key_rooms(self, function: Function | None) -> KeyRooms | None:
        """Room by key, of a function that has limits by key."""
        if function is None or not function.limits.keyed:
            return None
        blocks = self._flying["function", function.name][1]
        return await self._keys.rooms(function.name, function.limits, blocks)

    def _wake_for(self, bucket: TokenBucket | None, keys: KeyRooms | None) -> None:
        """Have the next look when there is another token."""
        if bucket is not None and not bucket.available(time.monotonic()):
            self._next_token = min(self._next_token, bucket.wait)
        if keys is not None:
            self._next_token = min(self._next_token, keys.wait)

    async def _in_flight(self, subject: Subject) -> int:
        """How many jobs of a subject are under way.

        Blocks of which nothing was, and nothing was let go, are passed over, but for a look at all of them now and
        then: somebody who did not know of the limit yet may have published some.
        """
        key, now = (subject.kind, subject.id), time.monotonic()
        look_at, blocks = self._flying.get(key, (-math.inf, set[str]()))
        everywhere = now >= look_at or len(blocks) > _NAMED
        found = await in_flight(self._store, subject, None if everywhere else list(blocks))
        if everywhere:
            took = time.monotonic() - now
            look_at = now + max(_LOOK, _REST * took)
        self._flying[key] = look_at, set(found)
        return sum(found.values())

    async def _release(
        self, slices: Sequence[DelayedSlice], room: int, function: Function | None, most: int, keys: KeyRooms | None
    ) -> int:
        """Let go up to `room` jobs of slices, the first ones first, that their keys allow; returns how many."""
        releases: list[Release] = []
        for each, unfinished in await self._unfinished(slices):
            waiting = each.jobs & unfinished
            if keys is not None and function is not None:
                jobs = keys.choose(await self._keys.of_block(each.block, function.limits), waiting, room)
                if waiting and not jobs:
                    continue
            else:
                jobs = bitmap.from_indices(islice(bitmap.indices(waiting), room))
            room -= jobs.bit_count()
            releases.append(Release(each, jobs, waiting & ~jobs))
            if room <= 0:
                break
        if not releases or not self._leader.is_sure:
            return 0
        done = await self._store.release_gated(releases)
        let_go = [release for release, changed in zip(releases, done, strict=True) if changed]
        count = sum(each.jobs.bit_count() for each in let_go)
        if (bucket := self._bucket(function)) is not None:
            bucket.take(count)  # before they are published: that may fail, and then a later call publishes them
        await self._publish([(each.slice, each.slice.released | each.jobs) for each in let_go], function, most=most)
        if len(let_go) < len(releases):
            self._news.set()  # somebody changed the others: have another look at them
        return count

    async def _unfinished(self, slices: Sequence[DelayedSlice]) -> list[tuple[DelayedSlice, int]]:
        """Slices, each with the jobs of its block that have not ended, as a bitmap."""
        outcomes = await outcomes_of(self._store, (each.block for each in slices))
        return [(each, outcomes[each.block].unfinished if each.block in outcomes else 0) for each in slices]

    async def _publish(self, jobs: Sequence[tuple[DelayedSlice, int]], function: Function | None, *, most: int) -> None:
        """Publish jobs that were let go, and strike out the note of it."""
        unsure, self._unsure = self._unsure, True
        messages: list[Message] = []
        queue = ""
        left = [(each, let_go) for each, let_go in jobs if let_go]
        while left:
            some, left = left[:_AT_ONCE], left[_AT_ONCE:]
            blocks = await asyncio.gather(*(self._blocks.get(each.block) for each, _ in some))
            for (each, let_go), found in zip(some, blocks, strict=True):
                if found is not None:
                    post = delayed_messages(*found, each, function, self._settings, jobs=let_go, most=most)
                    queue = post.queue
                    messages += post.messages
        if messages:
            await self._broker.publish(queue, messages)
        if jobs:
            await self._store.confirm_released([each.id for each, _ in jobs], now=time.time())
        self._unsure = unsure


def _put_off(function: str, error: RouteUnavailable) -> None:
    """Go on with the jobs of other functions: those that were let go are noted, and published by a later call."""
    logger.warning("jobs of %s that may go are not published now: %s", function, error)
