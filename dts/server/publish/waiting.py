"""Why jobs wait, and about how long they will: what holds them, or how many go first by priority and share.

What is said of the backlog is at most a second or two old, and costs the same however many ask.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import msgspec

from dts.errors import BrokerUnavailable
from dts.model import Backlog, Block, Run, Statistics
from dts.server.access.parties import Parties, PartiesOf, Subject
from dts.server.lookup.fleet import Fleet
from dts.server.publish.in_flight import in_flight
from dts.server.publish.marks import Marks
from dts.store import Store

_FRESH = 1.0  # seconds for which a look at the backlog is good, and nine times as long as it took
_NEAR = 200  # blocks among which a single job's place is found; beyond that all of them count


class Waiting(msgspec.Struct, omit_defaults=True, kw_only=True):
    """What a job, or the next job of a run, waits for; `text` says it to a person.

    `reason` is one of `paused` (with `what` is paused), `due` (at the time `due`), `no_worker` (for the `route`),
    `limit` (`limit` allows `allowed` jobs at once, and has `running`), `ahead` (`jobs` go first), `queue` (it is in
    the queue of its route, behind `messages`). `seconds` is about how long what is ahead takes; `starts` and `ends`
    are when the job, or the run, may, in seconds since the epoch. Without them nobody can know.
    """

    reason: str
    text: str
    what: str | msgspec.UnsetType = msgspec.UNSET
    due: float | msgspec.UnsetType = msgspec.UNSET
    route: str | msgspec.UnsetType = msgspec.UNSET
    limit: str | msgspec.UnsetType = msgspec.UNSET
    allowed: float | msgspec.UnsetType = msgspec.UNSET
    running: int | msgspec.UnsetType = msgspec.UNSET
    jobs: int | msgspec.UnsetType = msgspec.UNSET
    messages: int | msgspec.UnsetType = msgspec.UNSET
    seconds: float | msgspec.UnsetType = msgspec.UNSET
    starts: float | msgspec.UnsetType = msgspec.UNSET
    ends: float | msgspec.UnsetType = msgspec.UNSET


class _Row(NamedTuple):
    """A row of the backlog, whose it is, its priority, and the seconds of work that it is."""

    row: Backlog
    parties: Parties
    priority: int
    work: float

    @property
    def weight(self) -> float:
        """The part of the work that goes to it, beside others."""
        namespace, user = self.parties.weights
        return namespace * user * self.row.weight


@dataclass(frozen=True, slots=True)
class WaitingJob:
    """A job by its block and its index there, and its run.

    `due` is when it is published, if it has a time; `gated` says that it waits for a limit.
    """

    block: Block
    index: int
    run: Run | None
    due: float
    gated: bool = False


class WhyWaiting:
    """Says why jobs wait."""

    def __init__(self, store: Store, parties_of: PartiesOf, fleet: Fleet, marks: Marks) -> None:
        self._store = store
        self._parties_of = parties_of
        self._fleet = fleet
        self._marks = marks
        self._rows: list[_Row] = []
        self._good_until = 0.0

    async def of_run(self, run: Run, statistics: Statistics, unserved: str | None) -> Waiting | None:
        """What the next job of a run waits for; None if no job of it waits, or it is of several functions.

        `unserved` is a route that its jobs wait for though no live worker serves it.

        Raises:
            StoreUnavailable: nobody knows.
        """
        if not statistics.accepted + statistics.queued + statistics.delayed:
            return None
        if (held := _held_by_run(run, run.not_before)) is not None or not run.function:
            return held
        parties = await self._parties_of(run.user, run.function)
        if (held := await self._held(parties, unserved)) is not None:
            return held
        mine = [each for each in await self._backlog() if _is_of(each.row, run, run.function)]
        if not statistics.accepted or not mine:
            return await self._queued(parties, statistics.queued) if statistics.queued else None
        return await self._ahead(mine[0], before=0, count=mine[0].row.jobs)

    async def of_job(self, job: WaitingJob, unserved: str | None) -> Waiting:
        """What a job waits for that has neither ended nor is at work.

        `unserved` is a route that it waits for though no live worker serves it.

        Raises:
            StoreUnavailable: nobody knows.
        """
        block, index, run = job.block, job.index, job.run
        if (held := _held_by_run(run, job.due)) is not None:
            return held
        parties = await self._parties_of(block.user, block.function)
        if (held := await self._held(parties, unserved)) is not None:
            return held
        if job.gated:
            return _metered(parties)
        if run is None or block.published or index < block.sent:
            return await self._queued(parties, 1)
        for each in await self._backlog():
            if _is_of(each.row, run, block.function) and each.row.priority == block.priority:
                return await self._ahead(each, before=await self._place(each.row, block, index), count=1)
        return await self._queued(parties, 1)

    async def _held(self, parties: Parties, unserved: str | None) -> Waiting | None:
        """What keeps all jobs of these parties from being published or taken, if anything does."""
        for subject in parties.paused:
            return _paused(str(subject))
        if unserved is not None:
            text = f"no live worker serves the route {unserved}, which {parties.name} goes to"
            return Waiting(reason="no_worker", text=text, route=unserved)
        for subject in parties.limited:
            if subject.limits.running is not None:
                running = sum((await in_flight(self._store, subject)).values())
                if running >= subject.limits.running:
                    return _limited(subject, running)
        return None

    async def _backlog(self) -> list[_Row]:
        began = time.monotonic()
        if began >= self._good_until:
            rows = []
            for row in await self._store.backlog():
                parties = await self._parties_of(row.user, row.function)
                if not parties.paused:
                    work = self._marks.work(parties.function, row.jobs)
                    rows.append(_Row(row, parties, parties.priority(row.priority), work))
            now = time.monotonic()
            self._rows, self._good_until = rows, now + max(_FRESH, 9 * (now - began))
        return self._rows

    async def _place(self, row: Backlog, block: Block, index: int) -> int:
        """How many jobs of its own run, or of the user's single jobs, go before a job."""
        before = 0
        [found] = await self._store.backlog_blocks([(row, _NEAR)])
        for each in found:
            if each.outcome.block == block.id:
                return before + max(0, index - each.sent)
            before += each.outcome.count - each.sent
        return max(before, row.jobs - 1)

    async def _ahead(self, mine: _Row, *, before: int, count: int) -> Waiting:
        """What goes before some jobs of a row, `before` jobs of which go first."""
        others = [each for each in self._rows if each.parties.route == mine.parties.route and each is not mine]
        messages, queued = await self._queue(mine.parties.route)
        function, slots = mine.parties.function, await self._fleet.children(mine.parties.route)
        work = self._marks.work

        def ahead(own: int) -> tuple[int, float]:
            """Jobs and seconds of work that go out until so many of its own did."""
            found = list(_before(mine, others, work(function, own)))
            jobs = own + sum(round(part * other.row.jobs) for other, part in found)
            return jobs, work(function, own) + queued + sum(part * other.work for other, part in found)

        jobs, seconds = ahead(before)
        waits = f"{jobs} jobs go first" if jobs else f"it is next: {messages} messages are in the queue of its route"
        if function is None or function.mean_duration is None:
            return Waiting(reason="ahead", text=waits, jobs=jobs)
        now, took = time.time(), seconds / slots
        ends = now + max(ahead(before + count)[1] / slots, took + function.mean_duration)
        return Waiting(
            reason="ahead",
            text=f"{waits}, about {_span(took)} of work",
            jobs=jobs,
            seconds=round(took, 3),
            starts=round(now + took, 3),
            ends=round(ends, 3),
        )

    async def _queued(self, parties: Parties, count: int) -> Waiting:
        """What goes before jobs that are in the queue of their route."""
        messages, work = await self._queue(parties.route)
        text = f"it is in the queue of the route {parties.route}, which has {messages} messages"
        if parties.function is None or parties.function.mean_duration is None:
            return Waiting(reason="queue", text=text, messages=messages)
        now, slots = time.time(), await self._fleet.children(parties.route)
        seconds = work / slots
        ends = now + max(seconds, self._marks.work(parties.function, count) / slots) + parties.function.mean_duration
        return Waiting(
            reason="queue",
            text=text,
            messages=messages,
            seconds=round(seconds, 3),
            starts=round(now + seconds, 3),
            ends=round(ends, 3),
        )

    async def _queue(self, route: str) -> tuple[int, float]:
        """How many messages are in the queue of a route, and how many seconds of work; nothing if nobody knows."""
        try:
            return await self._marks.queued(route)
        except BrokerUnavailable:
            return 0, 0.0


def _before(mine: _Row, others: list[_Row], work: float) -> Iterator[tuple[_Row, float]]:
    """Other rows, each with the part of it that goes out before a row got so much work.

    As in a fluid model: until it did, every other row of its priority got as much by its weight, or all that it has.
    """
    for each in others:
        if each.priority > mine.priority:
            yield each, 1.0
        elif each.priority == mine.priority and work:
            yield each, min(1.0, work * each.weight / mine.weight / max(each.work, 1e-9))


def _is_of(row: Backlog, run: Run, function: str) -> bool:
    """Whether jobs of a run and a function are in a row."""
    if run.single:
        return not row.run and row.user == run.user and row.function == function
    return row.run == run.id and row.function == function


def _held_by_run(run: Run | None, due: float) -> Waiting | None:
    if run is not None and run.paused:
        return _paused("run")
    return _due(due) if due > time.time() else None


def _paused(what: str) -> Waiting:
    who = "resume it to go on" if what == "run" else "an administrator can resume it"
    return Waiting(reason="paused", text=f"the {what} is paused: {who}", what=what)


def _due(due: float) -> Waiting:
    text = f"it is not published before {time.strftime('%Y-%m-%d %H:%M:%S', time.gmtime(due))} UTC"
    return Waiting(reason="due", text=text, due=round(due, 6), starts=round(due, 3))


def _limited(subject: Subject, running: int) -> Waiting:
    allowed = subject.limits.running or 0
    text = f"the {subject} may have {allowed} jobs at work at once, and has {running}"
    return Waiting(reason="limit", text=text, limit=f"{subject}: running", allowed=allowed, running=running)


def _metered(parties: Parties) -> Waiting:
    """What a job waits for that may not begin yet, while fewer are at work than may be at once."""
    for subject in parties.limited:
        for name in ("key_running", "key_starts_per_second", "starts_per_second"):
            if (allowed := getattr(subject.limits, name)) is not None:
                text = f"the {subject} has a limit {name} of {allowed:g}"
                return Waiting(reason="limit", text=text, limit=f"{subject}: {name}", allowed=allowed)
    return Waiting(reason="limit", text="it is about to be published: a limit has just let it go")


def _span(seconds: float) -> str:
    """A length of time in words that are short."""
    if seconds <= 120:
        return f"{max(1.0, seconds):.0f} s"
    return f"{seconds / 60:.0f} min" if seconds <= 7200 else f"{seconds / 3600:.0f} h"
