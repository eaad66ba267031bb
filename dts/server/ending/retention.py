"""Removes runs whose time is over, as the limits of their user, function and namespace say.

Of runs of those who have such a limit, and of no others, there is a note that says since when a run has been finished:
closed or cancelled with no unfinished job, or left open with none and no new one. A sweep notes runs that are new,
looks again at those that had not finished, and deletes those whose time is over. None of that gets dearer with the runs
that there are. What a sweep does not get to, the next one does, in whatever process: all it knows is in the store, but
for the place where its look has stopped. It deletes first: there may be so many unfinished runs that no time is left.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from dts.model import Function, Namespace, Run, RunState, User, first_id
from dts.store import Store
from dts.store.contract.retention import RunNote

T = TypeVar("T")

logger = logging.getLogger(__name__)

_PAGE = 100
_AT_ONCE = 10
_BLOCKS = 20
"""Blocks that are deleted in one step."""

_SETTLED = 60.0
"""Seconds after which a run is looked at for the first time: ids are in order of servers' clocks, which may differ, and
one that is smaller than the last one noted must not come later."""

_LONGEST = 20.0
"""Seconds after which a sweep leaves the rest to the next one."""

_HELD = 60.0
"""Seconds for which a sweep keeps others from sweeping at the same time; more than _LONGEST with its last step."""


@dataclass(frozen=True, slots=True)
class _Kept:
    """Whose runs are kept for how many seconds; one of the two is given. A function "" is several of them at once."""

    seconds: float
    user: str | None = None
    function: str | None = None

    @property
    def subject(self) -> str:
        """The name in the notes."""
        return f"user {self.user}" if self.user is not None else f"function {self.function}"


class Retention:
    """Sweeps the store. Several may try at the same time: one does."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._me = uuid.uuid4().hex
        self._times: dict[str, float] = {}
        self._places: dict[str, str] = {}
        self._until = 0.0

    async def sweep(self) -> int:
        """Delete what is past its time, in 20 seconds at most; how many runs that were.

        Raises:
            StoreUnavailable: it may have been in the middle of a run; the next sweep goes on.
        """
        kept = await self._subjects()
        if not kept or not await self._store.hold("retention", self._me, seconds=_HELD):
            return 0
        self._until = time.monotonic() + _LONGEST
        random.shuffle(kept)  # so that nobody's runs are always those that are not got to
        self._places = {each.subject: self._places.get(each.subject, "") for each in kept}
        deleted = 0
        for each in kept:
            deleted += await self._delete_over(each)
        for each in kept:
            await self._note_new(each)
        for each in kept:
            await self._look_again(each)
        await self._store.let_go("retention", self._me)
        if deleted:
            logger.info("deleted %d runs that were kept as long as their limits say", deleted)
        return deleted

    async def _subjects(self) -> list[_Kept]:
        """Users and functions whose runs are kept for a time, by a limit of their own or of their namespace's."""
        users = await self._store.list_records(User, limit=None)
        namespaces = await self._store.list_records(Namespace, limit=None)
        functions = await self._store.list_records(Function, limit=None)
        records: list[User | Namespace | Function] = [*users, *namespaces, *functions]
        self._times = {
            f"{type(record).__name__} {record.id}": record.limits.retention
            for record in records
            if record.limits.retention is not None
        }
        kept = [
            _Kept(self._times[f"User {user.id}"], user=user.id) for user in users if f"User {user.id}" in self._times
        ]
        names = {function.id for function in functions if f"Function {function.id}" in self._times}
        for namespace in namespaces:
            if f"Namespace {namespace.id}" in self._times:
                names |= set(await self._store.functions_of_runs(namespace.id))
        by_function = {name: seconds for name in names if (seconds := _shortest(self._times, name)) is not None}
        if by_function:
            by_function[""] = min(by_function.values())
        return kept + [_Kept(seconds, function=name) for name, seconds in by_function.items()]

    def _in_time(self) -> bool:
        return time.monotonic() < self._until

    async def _note_new(self, kept: _Kept) -> None:
        """Note the runs that came after the last one that is noted."""
        before, after = first_id(time.time() - _SETTLED), await self._store.last_noted(kept.subject)
        while self._in_time():
            begun = time.monotonic()
            runs = await self._store.oldest_runs(
                user=kept.user, function=kept.function, after=after, before=before, limit=_PAGE
            )
            await self._store.write_notes(await self._notes(kept.subject, [run.id for run in runs]))
            if len(runs) < _PAGE:
                return
            after = runs[-1].id
            await _breathe(begun)

    async def _look_again(self, kept: _Kept) -> None:
        """Note which of the runs that had not finished have by now, from where the last look has stopped."""
        while self._in_time():
            begun = time.monotonic()
            notes = await self._store.unfinished_notes(kept.subject, limit=_PAGE, after=self._places[kept.subject])
            seen = await self._notes(kept.subject, [note.run for note in notes])
            await self._store.write_notes([note for note in seen if note.finished is not None])
            self._places[kept.subject] = notes[-1].run if len(notes) == _PAGE else ""
            if len(notes) < _PAGE:
                return
            await _breathe(begun)

    async def _notes(self, subject: str, run_ids: Sequence[str]) -> list[RunNote]:
        found: list[RunNote] = []
        for some in _few(run_ids):
            found += await asyncio.gather(*(self._note(subject, run_id) for run_id in some))
        return found

    async def _note(self, subject: str, run_id: str) -> RunNote:
        statistics = await self._store.run_statistics(run_id)
        finished = time.time() if statistics.ended == statistics.total else None
        return RunNote(subject, run_id, finished, statistics.total)

    async def _delete_over(self, kept: _Kept) -> int:
        """Delete the runs whose time is over; how many."""
        deleted, after = 0, (0.0, "")
        while self._in_time():
            begun = time.monotonic()
            notes = await self._store.finished_notes(
                kept.subject, until=time.time() - kept.seconds, limit=_PAGE, after=after
            )
            for some in _few(notes):
                deleted += sum(await asyncio.gather(*(self._delete(note) for note in some)))
                after = some[-1].finished or 0.0, some[-1].run
                if not self._in_time():
                    break
            if len(notes) < _PAGE:
                break
            await _breathe(begun)
        return deleted

    async def _delete(self, note: RunNote) -> bool:
        """Delete a run unless it turns out that its time is not over after all."""
        run = await self._store.get_run(note.run)
        if run is not None and note.subject == "function ":
            own = await self._kept(run)
            if own is None or (note.finished or 0.0) + own > time.time():
                return False
        if run is not None and run.state is RunState.OPEN:
            # From here on it takes no more blocks; one that is on its way is seen below, or is part of what goes.
            await self._store.update_run(run.id, state=RunState.CLOSED)
        seen = await self._note(note.subject, note.run)
        if run is not None and (seen.finished is None or seen.jobs != note.jobs):
            await self._store.write_notes([seen])
            return False
        while not await self._store.delete_run(note.run, blocks=_BLOCKS):
            continue
        return run is not None

    async def _kept(self, run: Run) -> float | None:
        """For how many seconds a run of several functions is kept; None is for ever. Its blocks know the functions."""
        functions = {outcome.function for outcome in await self._store.list_blocks(run.id)}
        return min((found for name in functions if (found := _shortest(self._times, name)) is not None), default=None)


def _shortest(times: Mapping[str, float], function: str) -> float | None:
    """For how many seconds runs of a function are kept, by its own limit and by its namespace's."""
    names = (f"Function {function}", f"Namespace {function.partition('/')[0]}")
    return min((times[name] for name in names if name in times), default=None)


def _few(items: Sequence[T]) -> Iterator[Sequence[T]]:
    """Parts of what there is, to be done at the same time."""
    return (items[start : start + _AT_ONCE] for start in range(0, len(items), _AT_ONCE))


async def _breathe(begun: float) -> None:
    """Leave the store to others for as long as a page has taken it."""
    await asyncio.sleep(min(time.monotonic() - begun, 1.0))
