"""Fires schedules when they are due, each time once, however many timekeepers there are and whichever of them dies.

Each schedule has a document that is due when the schedule is. A timekeeper claims it, writes down which times have come
(`waiting`), carries their firings out in order, and writes down the rest and when the next time comes. If it dies on
the way, another one claims the document when the claim is over, and does the same again: what was carried out before
is found by the ids of its runs.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace

import msgspec

from dts.broker import Broker
from dts.errors import BrokerUnavailable, StoreUnavailable
from dts.model import Document, Schedule
from dts.server.lookup.catalogue import Catalogue
from dts.server.unattended.firing import Became, Fired, Firing
from dts.server.unattended.timetable import due_time, next_time
from dts.store import Store

logger = logging.getLogger(__name__)

SCHEDULES = "schedules"
"""The collection of documents, one for each schedule, by its id: what has come and when it is due next."""

CLAIM = 60.0
"""Seconds for which a claimed schedule is left alone: the firings of one turn take one of them on a slow disk."""

_AT_ONCE = 100  # schedules that are claimed together
_WAITING = 20
"""Firings of one schedule that wait at most. Later times are not looked at until there is room."""

_POKES = 20
_PAGE = 1000


@dataclass(frozen=True, slots=True)
class _Progress:
    """How far a schedule is: times up to `handled` are dealt with but for those in `waiting`.

    `created` tells the schedule from an earlier one under its name, `timing` how it was to fire from how it is now;
    `run` is that of the last firing.
    """

    created: float
    timing: str
    handled: float
    waiting: tuple[float, ...] = ()
    run: str = ""


class Scheduler:
    """Fires what is due. Any number of them may work on the same store."""

    def __init__(self, store: Store, broker: Broker, catalogue: Catalogue, *, claim: float = CLAIM) -> None:
        self._store = store
        self._claim = claim
        self._firing = Firing(store, broker, catalogue)

    async def fire_due(self) -> int:
        """Fire what is due now; returns how many schedules that was.

        Raises:
            StoreUnavailable: some may be fired; what was not comes again.
        """
        count = 0
        while documents := await self._store.claim_documents(SCHEDULES, seconds=self._claim, limit=_AT_ONCE):
            for document in documents:
                await self._try(document)
            count += len(documents)
        return count

    async def adopt(self) -> None:
        """Give each schedule its document, which a server that died after it stored the record has not."""
        after: str | None = None
        while schedules := await self._store.list_records(Schedule, limit=_PAGE, after=after):
            there = await self._store.get_documents(SCHEDULES, [schedule.id for schedule in schedules])
            for missing in {schedule.id for schedule in schedules} - {document.id for document in there}:
                await wake(self._store, missing)
            after = schedules[-1].id

    async def _try(self, document: Document) -> None:
        """Fire a schedule; what fails over what is in it is tried again when its claim is over."""
        try:
            await self._attend(document)
        except (StoreUnavailable, BrokerUnavailable):
            raise
        except Exception:
            logger.exception("cannot fire schedule %s, trying again in %.0f s", document.id, self._claim)

    async def _attend(self, document: Document) -> None:
        schedule = await self._store.get_record(Schedule, document.id)
        if schedule is None:
            await self._store.delete_document(document)
            return
        progress = _progress_of(document, schedule)
        if schedule.paused:
            await self._complete(schedule, progress)
            await self._store.replace_document(_kept(document, replace(progress, waiting=()), None))
            return
        collected = await self._collect(schedule, progress)
        if collected.waiting:  # from here on they are fired, however late it is when another timekeeper goes on
            document = _kept(document, collected, self._store.now() + self._claim)
            if not await self._store.replace_document(document):
                return  # it was changed, or claimed by another one
            document = replace(document, revision=document.revision + 1)
        after, retry = await self._fire_waiting(schedule, collected)
        await self._store.replace_document(_kept(document, after, self._next_due(schedule, after, retry)))

    async def _complete(self, schedule: Schedule, progress: _Progress) -> None:
        """Carry out the firings that were begun before the schedule was paused; the others that wait are dropped."""
        for at in progress.waiting:
            if await self._firing.was_begun(schedule, at):
                await self._firing.fire(schedule, at)

    async def _collect(self, schedule: Schedule, progress: _Progress) -> _Progress:
        """Move the times that have come to those that wait; those that are too late are missed."""
        now, waiting, handled = self._store.now(), list(progress.waiting), progress.handled
        while len(waiting) < _WAITING and (at := next_time(schedule, handled)) is not None:
            if due_time(schedule, at) > now:
                break
            late = now - at
            if late > schedule.catch_up and not await self._firing.was_begun(schedule, at):
                await self._firing.miss(schedule, at, late)
                handled = max(at, now - schedule.catch_up - 0.001)
                continue
            waiting.append(at)
            handled = at
        return replace(progress, waiting=tuple(waiting), handled=handled)

    async def _fire_waiting(self, schedule: Schedule, progress: _Progress) -> tuple[_Progress, float | None]:
        """Carry out what waits, in order; in how many seconds to go on if something is in the way."""
        while progress.waiting:
            at, *rest = progress.waiting
            fired = await self._firing.fire(schedule, at, previous=progress.run)
            if fired.became is Became.WAITS:
                if not self._is_hopeless(schedule, at, fired):
                    return progress, fired.retry_in
                await self._firing.give_up(schedule, at, fired.reason)
            progress = replace(progress, waiting=tuple(rest), run=fired.run or progress.run)
        return progress, None

    def _is_hopeless(self, schedule: Schedule, at: float, fired: Fired) -> bool:
        """Whether a limit has kept a firing waiting for longer than `catch_up`; behind a run it waits in any case."""
        return schedule.overlap != "queue" and self._store.now() - at > schedule.catch_up

    def _next_due(self, schedule: Schedule, progress: _Progress, retry: float | None) -> float | None:
        following = next_time(schedule, progress.handled)
        due = None if following is None else due_time(schedule, following)
        if retry is None:
            return due
        again = self._store.now() + retry
        return again if due is None or len(progress.waiting) >= _WAITING else min(due, again)


async def wake(store: Store, schedule_id: str) -> None:
    """Have a schedule looked at now: it is new, or was changed.

    Raises:
        StoreUnavailable: it may not be; a new one is found by `Scheduler.adopt`.
    """
    for _ in range(_POKES):
        document = await store.get_document(SCHEDULES, schedule_id)
        if document is None:
            if await store.add_document(Document(SCHEDULES, schedule_id, {}, due=store.now())):
                return
        elif await store.replace_document(replace(document, due=store.now())):
            return
    logger.warning("schedule %s changes all the time: its last change counts when it is due next", schedule_id)


def _progress_of(document: Document, schedule: Schedule) -> _Progress:
    """How far a schedule is. When it is new it begins with its creation; when its times were changed, with that."""
    timing = msgspec.json.encode([schedule.cron, schedule.tz, schedule.every, schedule.at, schedule.paused]).decode()
    before = msgspec.convert(dict(document.data), _Progress) if document.data else None
    if before is None or before.created != schedule.created:
        return _Progress(schedule.created, timing, schedule.created)
    if before.timing != timing:
        return replace(before, timing=timing, handled=max(before.handled, schedule.modified))
    return before


def _kept(document: Document, progress: _Progress, due: float | None) -> Document:
    return replace(document, data=msgspec.to_builtins(progress), due=due)
