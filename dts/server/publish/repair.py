"""Jobs whose messages a broker has lost: found by what nobody has, and published again.

A queue may be purged or deleted, and a broker's disk or file may go; what was published is in the store all the same.
A job is taken for lost when its block was published, it has neither ended nor waits in the store, no live worker says
that it is at it, and the queue of its route is empty, as is the one of results: all that unchanged for a while. Where
the broker tells how many messages its consumers hold, there is no doubt when these are none either, and the while is
short. Where it does not, a job may be with a worker that is busy with others: then the while is longer, and it is
doubled each time. A message too many does no harm, since a job ends once, and so does each of its attempts: a lost
message comes again with the number of the last attempt that was planned.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
import uuid
from collections import OrderedDict, defaultdict
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from dts.broker import Broker
from dts.config import ServerSettings
from dts.errors import BrokerUnavailable
from dts.model import Block, DelayedSlice, Lease, Outcome, WorkerState, bitmap, job_id
from dts.server.lookup.catalogue import Catalogue
from dts.server.lookup.fleet import ALIVE
from dts.server.publish.slices import delayed_messages
from dts.server.record.blocks import jobs_of
from dts.store import Store
from dts.wire.queues import DEAD, RESULTS, jobs_queue

logger = logging.getLogger(__name__)

LOOKS = 6
"""Looks in the time after which a job may be taken for lost."""

MAX_INTERVAL = 10.0
"""Seconds between two looks, at most."""

_BUSY = 10
"""How many times longer to wait where work goes on in the route: a worker may hold what it has not begun."""

_MAX_BACKOFF = 24 * 3600.0
_REMEMBERED = 10_000  # blocks whose repairs are counted, the latest

_SAMPLES, _SAMPLE_PAUSE = 5, 0.2
"""A queue that is drained all the time is seen empty in one of so many looks, so many seconds apart."""

_PAGE = 100

_MOST = 10_000
"""Published blocks of a route that a look goes through: a tenth of a second of an embedded store. There may be many
more, since those that wait at the gate are among them; a round of all of them takes several looks then."""

_PUBLISH_TIMEOUT = 10.0
_HOLD = 60.0
"""Seconds in which timekeeper leaves a block alone whose jobs somebody has had published again by hand."""


@dataclass(frozen=True, slots=True)
class Requeued:
    """What was published again: how many jobs, of how many blocks."""

    jobs: int
    blocks: int


class _Suspect(NamedTuple):
    """Jobs of a block that nobody seems to have, as a bitmap, and since when that is so (monotonic seconds)."""

    jobs: int
    since: float


@dataclass(slots=True)
class _Round:
    """What the looks at the blocks of a route have found: all of the last round, and those of this one so far.

    `begun` and `previous` are when this round and the one before have begun (monotonic seconds).
    """

    begun: float
    previous: float
    last: Mapping[str, _Suspect] = field(default_factory=dict)
    found: dict[str, _Suspect] = field(default_factory=dict)

    def next(self, now: float) -> _Round:
        """The round after this one."""
        return _Round(now, self.begun, self.found)


class AtWork:
    """The jobs that live workers say they are at. What was at work with a worker that is gone, is not."""

    def __init__(self, states: Sequence[WorkerState], now: float) -> None:
        live = [state for state in states if state.time > now - ALIVE]
        self._named = {row.get("job") for state in live for row in state.running}
        # Nothing can be told while nobody collects heartbeats, or where a worker has more jobs than it names.
        self._unknown = not live or any(len(state.running) < state.jobs_running for state in live)

    def of(self, outcome: Outcome) -> int:
        """The jobs of a block that are at work, as a bitmap."""
        if self._unknown or not outcome.running:
            return outcome.running
        return bitmap.from_indices(
            index
            for index in bitmap.indices(outcome.running)
            if job_id(outcome.run, outcome.first + index) in self._named
        )


class Again:
    """Publishes jobs again that are with the broker already, or were."""

    def __init__(self, store: Store, broker: Broker, catalogue: Catalogue, settings: ServerSettings) -> None:
        self.holder = uuid.uuid4().hex
        self.store = store
        self.broker = broker
        self._catalogue = catalogue
        self._settings = settings

    async def publish(self, outcome: Outcome, jobs: int) -> int:
        """Publish jobs of a block, a bitmap, under the fences that they have; returns how many were left to publish.

        Raises:
            BrokerUnavailable: not every message was confirmed.
            StoreUnavailable: the store does not answer.
        """
        block = await self.store.get_block(outcome.block)
        if block is None or not jobs:
            return 0
        batch, function = await jobs_of(self.store, block), await self._catalogue.get(block.function)
        planned, leases = await self.store.planned_attempts({block.id: 0}), await self.store.list_leases([block.id])
        for each in _slices(block, jobs, planned.get(block.id, {}), leases):
            post = delayed_messages(block, batch, each, function, self._settings)
            await self.broker.publish(post.queue, post.messages, timeout=_PUBLISH_TIMEOUT)
        return jobs.bit_count()

    async def requeue_run(self, run_id: str) -> Requeued:
        """Publish every job of a run again that has not ended, waits for nothing, and is not at work.

        Raises:
            BrokerUnavailable: not every message was confirmed; the call may be repeated.
            StoreUnavailable: the store does not answer.
        """
        at_work = AtWork(await self.store.list_heartbeats(), self.store.now())
        jobs = blocks = 0
        after = -1
        while outcomes := await self.store.list_blocks(run_id, limit=_PAGE, after=after):
            after = int(outcomes[-1].block.rpartition("-")[2])
            open_ = [outcome for outcome in outcomes if outcome.unfinished]
            waiting = await self.store.waiting_jobs([outcome.block for outcome in open_]) if open_ else {}
            for outcome in open_:
                left = outcome.unfinished & ~waiting.get(outcome.block, 0) & ~at_work.of(outcome)
                block = await self.store.get_block(outcome.block) if left else None
                if block is not None and not block.published:
                    left &= bitmap.full(block.sent)  # the others wait for the dispatcher
                if block is None or not left:
                    continue
                await self.store.claim_published({block.id: _HOLD}, self.holder)
                jobs += await self.publish(outcome, left)
                blocks += 1
        return Requeued(jobs, blocks)


class Repair:
    """Looks for jobs that are lost and publishes them again. Several may: each block is claimed by one of them.

    `after` is the number of seconds after which a job that nobody has is taken for lost.
    """

    def __init__(self, again: Again, after: float) -> None:
        self._again = again
        self._store = again.store
        self._broker = again.broker
        self._after = after
        self._rounds: dict[str, _Round] = {}
        self._places: dict[str, tuple[str, str]] = {}
        self._busy_at: dict[str, float] = {}
        self._times: OrderedDict[str, int] = OrderedDict()

    @property
    def interval(self) -> float:
        """Seconds between two looks."""
        return min(MAX_INTERVAL, self._after / LOOKS)

    async def look(self) -> int:
        """Look once, and publish again what is lost by now; returns how many jobs that were.

        Raises:
            BrokerUnavailable: the broker does not answer; what is left over comes again.
            StoreUnavailable: the store does not answer.
        """
        routes: defaultdict[str, list[str]] = defaultdict(list)
        for function in await self._store.list_functions():
            routes[function.route].append(function.name)
        certain = await self._nothing_on_its_way()
        at_work = AtWork(await self._store.list_heartbeats(), self._store.now())
        rounds, self._rounds = self._rounds, {}  # of a route that is not looked at now, no suspicion is left
        if certain is None:
            return 0
        jobs = 0
        for route, functions in routes.items():
            try:
                depth = await self._broker.depth(jobs_queue(route))
            except BrokerUnavailable as error:  # of this queue: the others must not wait for it
                logger.info("cannot tell what is lost of route %s: %s", route, error)
                continue
            if not depth.ready:
                sure = certain and depth.held == 0
                jobs += await self._look_at(route, functions, rounds.get(route), at_work, sure=sure)
        return jobs

    async def _nothing_on_its_way(self) -> bool | None:
        """Whether all that workers sent has been recorded; None if some waits, False if somebody may be at it."""
        certain = True
        for queue in (RESULTS, DEAD):
            for _ in range(_SAMPLES):
                depth = await self._broker.depth(queue)
                if not depth.ready:
                    break
                await asyncio.sleep(_SAMPLE_PAUSE)
            else:
                return None
            certain = certain and depth.held == 0
        return certain

    async def _look_at(
        self, route: str, functions: Sequence[str], before: _Round | None, at_work: AtWork, *, sure: bool
    ) -> int:
        now = time.monotonic()
        this = before or _Round(now, now)
        found: dict[str, tuple[Outcome, _Suspect]] = {}
        async for outcome, jobs in self._unaccounted(route, functions, at_work):
            known = this.last.get(outcome.block, _Suspect(jobs, now))
            if at_work.of(outcome) or known.jobs != jobs:
                self._busy_at[route] = now
            if jobs:
                found[outcome.block] = outcome, known if known.jobs == jobs else _Suspect(jobs, now)
        # What was at work is seen again a round later.
        busy = self._busy_at.get(route, -math.inf) > min(now - self._after, this.previous)
        patience = self.interval if sure else self._after * (_BUSY if busy else 1)
        lost = {
            block: (outcome, suspect.jobs)
            for block, (outcome, suspect) in found.items()
            if now - suspect.since >= patience * 0.9  # two looks are never apart by their interval exactly
        }
        this.found |= {block: suspect for block, (_, suspect) in found.items() if block not in lost}
        self._rounds[route] = this if route in self._places else this.next(now)
        return await self._publish(lost)

    async def _unaccounted(
        self, route: str, functions: Sequence[str], at_work: AtWork
    ) -> AsyncIterator[tuple[Outcome, int]]:
        """Blocks of functions that are published and not finished, with the jobs that nobody is known to have.

        So many at a time, from where the last look at the route has stopped.
        """
        (first, after), left, older_than = self._places.get(route, ("", "")), _MOST, time.time() - self.interval
        for function in sorted(each for each in functions if each >= first):
            after = after if function == first else ""
            while outcomes := await self._store.published_blocks(
                function=function, older_than=older_than, limit=_PAGE, after=after
            ):
                after = outcomes[-1].block
                waiting = await self._store.waiting_jobs([outcome.block for outcome in outcomes])
                for outcome in outcomes:
                    yield outcome, outcome.unfinished & ~waiting.get(outcome.block, 0) & ~at_work.of(outcome)
                left -= len(outcomes)
                if left <= 0:
                    self._places[route] = function, after
                    return
        self._places.pop(route, None)

    async def _publish(self, lost: Mapping[str, tuple[Outcome, int]]) -> int:
        claimed = await self._store.claim_published({block: self._backoff(block) for block in lost}, self._again.holder)
        counts: defaultdict[str, int] = defaultdict(int)
        left = list(claimed)
        try:
            while left:
                outcome, jobs = lost[left[-1]]
                counts[outcome.run] += await self._again.publish(outcome, jobs)
                self._count(left.pop())
        except BrokerUnavailable:
            await self._store.release_claims(left, self._again.holder)
            raise
        finally:
            for run, count in counts.items():
                logger.warning("run %s: %d jobs are published again, since the broker has lost them", run, count)
        return sum(counts.values())

    def _backoff(self, block: str) -> float:
        """Seconds until a block may be repaired once more."""
        return float(min(self._after * 2.0 ** min(self._times.get(block, 0), 32), _MAX_BACKOFF))

    def _count(self, block: str) -> None:
        self._times[block] = self._times.pop(block, 0) + 1
        while len(self._times) > _REMEMBERED:
            self._times.popitem(last=False)


def _slices(block: Block, jobs: int, planned: Mapping[int, int], leases: Sequence[Lease]) -> list[DelayedSlice]:
    """The jobs in slices of one attempt each: the last one that was planned, or that a lease tells, under its fence.

    `planned` has jobs by attempt.
    """
    queued = {lease.job: lease for lease in leases if jobs >> lease.job & 1}
    groups: defaultdict[int, int] = defaultdict(int)
    for job, lease in queued.items():
        last = max((attempt for attempt, of in planned.items() if of >> job & 1), default=1)
        groups[max(last, lease.attempt)] |= 1 << job
    left = jobs & ~bitmap.from_indices(queued)
    for attempt in sorted({1, *planned}, reverse=True):
        those = left if attempt == 1 else left & planned[attempt]
        groups[attempt] |= those
        left &= ~those
    return [
        _slice(block, those, attempt, {job: lease.fence for job, lease in queued.items() if those >> job & 1})
        for attempt, those in sorted(groups.items())
        if those
    ]


def _slice(block: Block, jobs: int, attempt: int, fences: Mapping[int, int]) -> DelayedSlice:
    return DelayedSlice("", block.id, block.run, block.user, block.function, 0.0, jobs, attempt, fences=fences)
