"""One firing of a schedule: its run, and its entry in the schedule's history.

The id of the run follows from the schedule and the time, so whoever carries the firing out, and however often, makes
one run. The entry says what became of it.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import msgspec

from dts.broker import Broker
from dts.model import MAX_BLOCK_SIZE, Document, Run, Schedule, derived_id, first_id
from dts.server.ending.cancel import cancel_run
from dts.server.intake.ingest import Arguments
from dts.server.lookup.catalogue import Catalogue
from dts.server.unattended.submit import OverLimit, Refused, Submitter, has_finished
from dts.server.unattended.timetable import gap_after
from dts.store import Store

logger = logging.getLogger(__name__)

FIRINGS = "firings"
"""The collection of documents that is the history of schedules; a document's group is its schedule's id."""

_KEPT = 1000
_KEPT_LEAST, _KEPT_MOST = 86400.0, 90 * 86400.0
"""Entries that the history keeps of a schedule, about, and for how many seconds at least and at most."""

_POLL = 2.0
"""Seconds after which a firing that is queued behind a run sees whether that has finished."""


class Became(StrEnum):
    """What became of a firing. One that waits is not in the history yet."""

    STARTED = "started"
    SKIPPED = "skipped"
    REFUSED = "refused"
    MISSED = "missed"
    WAITS = "waits"


@dataclass(frozen=True, slots=True)
class Fired:
    """What became of a firing: its run if there is one, why there is none, in how many seconds to try again."""

    became: Became
    run: str = ""
    reason: str = ""
    retry_in: float = 0.0


class Firing:
    """Carries firings out."""

    def __init__(self, store: Store, broker: Broker, catalogue: Catalogue) -> None:
        self._store = store
        self._broker = broker
        self._submitter = Submitter(store, broker, catalogue)

    async def fire(self, schedule: Schedule, at: float, *, previous: str = "", by: str = "") -> Fired:
        """Carry out the firing of a time; `previous` is the run of the firing before, which may not have finished.

        A firing that an administrator asked for, `by` name, does not look at that. Safe to repeat.

        Raises:
            StoreUnavailable: it may be carried out; repeat it.
        """
        run = _run_of(schedule, at)
        is_new = await self._store.get_run(run.id) is None
        if is_new and previous and not by and (held := await self._overlap(schedule, at, previous)):
            return held
        try:
            await self._submitter.submit(run, _jobs_of(schedule))
        except Refused as error:
            return await self._note(schedule, at, Fired(Became.REFUSED, reason=str(error)), by=by)
        except OverLimit as error:
            if by:
                raise
            return Fired(Became.WAITS, reason=error.message, retry_in=error.retry_after)
        return await self._note(schedule, at, Fired(Became.STARTED, run.id), by=by)

    async def was_begun(self, schedule: Schedule, at: float) -> bool:
        """Whether the run of a firing is there, complete or not."""
        return await self._store.get_run(_run_of(schedule, at).id) is not None

    async def miss(self, schedule: Schedule, at: float, late: float) -> None:
        """Note that the firings from a time on were missed, this one by `late` seconds."""
        reason = (
            f"no timekeeper was running: this and what followed it is later than catch_up ({schedule.catch_up:g} s), "
            f"by {late - schedule.catch_up:.0f} s"
        )
        await self._note(schedule, at, Fired(Became.MISSED, reason=reason))

    async def give_up(self, schedule: Schedule, at: float, reason: str) -> None:
        """Note that a firing was kept waiting for too long."""
        await self._note(schedule, at, Fired(Became.REFUSED, reason=reason))

    async def _overlap(self, schedule: Schedule, at: float, previous: str) -> Fired | None:
        """What the overlap policy makes of a firing while the run before it is at work; None to go on."""
        if schedule.overlap == "allow" or await has_finished(self._store, previous):
            return None
        if schedule.overlap == "queue":
            return Fired(Became.WAITS, reason=f"run {previous} has not finished", retry_in=_POLL)
        if schedule.overlap == "skip":
            reason = f"run {previous} had not finished"
            return await self._note(schedule, at, Fired(Became.SKIPPED, reason=reason))
        await cancel_run(self._store, self._broker, previous)
        logger.info("cancelled run %s: the next firing of schedule %s takes its place", previous, schedule.id)
        return None

    async def _note(self, schedule: Schedule, at: float, fired: Fired, *, by: str = "") -> Fired:
        """Put a firing into the history, and what an operator should know of into the log."""
        if fired.became in (Became.REFUSED, Became.MISSED):
            logger.warning(
                "schedule %s of user %s did not start %s at %s: %s",
                schedule.id,
                schedule.user,
                schedule.function,
                time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(at)),
                fired.reason,
            )
        kept = min(_KEPT_MOST, max(_KEPT_LEAST, _KEPT * gap_after(schedule, at)))
        data: dict[str, Any] = {"time": at, "noted": self._store.now(), "state": fired.became.value}
        data |= {name: text for name, text in (("run", fired.run), ("reason", fired.reason), ("by", by)) if text}
        entry = Document(FIRINGS, firing_id(schedule.id, at), data, schedule.id, expires=self._store.now() + kept)
        await self._store.put_documents([entry])
        return fired


def firing_id(schedule_id: str, at: float) -> str:
    """The id of a firing's entry: those of a schedule sort by time."""
    return f"{schedule_id}@{round(at * 1000):015d}"


def encode_work(args: list[Any] | None, kwargs: dict[str, Any] | None, lines: str | None) -> bytes:
    """What a schedule submits, as its record keeps it: one job with these arguments, or one for each line."""
    work = {"lines": lines.splitlines()} if lines is not None else {"args": args or [], "kwargs": kwargs or {}}
    return msgspec.json.encode(work)


def decode_work(work: bytes) -> dict[str, Any]:
    """What `encode_work` was given, by name; `lines` as a list."""
    return msgspec.json.decode(work, type=dict[str, Any]) if work else {"args": [], "kwargs": {}}


def _jobs_of(schedule: Schedule) -> list[Arguments]:
    work = decode_work(schedule.work)
    encode = msgspec.json.encode
    if "lines" in work:
        return [Arguments(encode([line]), b"") for line in work["lines"]]
    return [Arguments(encode(work["args"]), encode(work["kwargs"]) if work["kwargs"] else b"")]


def _run_of(schedule: Schedule, at: float) -> Run:
    """The run of a firing. A schedule that is made anew under the same name has runs of its own."""
    run_id = derived_id(first_id(at), f"schedule/{schedule.id}/{schedule.created}/{at:.3f}")
    return Run(run_id, schedule.user, schedule.function, MAX_BLOCK_SIZE, created=at)
