"""Deletes runs that have been finished for as long as the limits of their user, function and namespace keep them.

Each limit is one query of an index. A run that was left open, with no unfinished job and no new block for as long as
it would be kept, is closed first, so that it finishes; its time begins then. Runs whose blocks come from other runs are
not left, and a run stays while something is still to follow it. Deletions of several timekeepers at once
would do no harm, and no good: one holds the lease.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
import uuid
from collections.abc import Iterable
from dataclasses import dataclass

from dts.model import Function, Namespace, Run, RunState, User
from dts.server.intake.following import FOLLOWING
from dts.store import Store

logger = logging.getLogger(__name__)

KEPT_OPEN = "kept open"
"""The collection of documents, by run, that keep open runs from being closed however long they get no block."""

_PAGE = 100
_AT_ONCE = 10  # runs
_BLOCKS = 20
"""Blocks that are deleted in one step."""

_IDLE = 3600.0
"""Seconds without a new block after which an open run counts as left, at least: clients follow files that pause."""

_LONGEST = 20.0
"""Seconds after which a sweep leaves the rest to the next one."""

_HELD = 60.0
"""Seconds of the lease: more than _LONGEST with the last step."""


@dataclass(frozen=True, slots=True)
class _Kept:
    """Whose runs are kept for how many seconds; one of the two is given. A function "" is several of them at once."""

    seconds: float
    user: str | None = None
    function: str | None = None


class Retention:
    """Sweeps the store."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._me = uuid.uuid4().hex
        self._until = 0.0

    async def sweep(self) -> int:
        """Delete runs that are kept no longer, for about 20 seconds at most; returns how many it deleted.

        Raises:
            StoreUnavailable: it may have been in the middle of a run; the next sweep goes on.
        """
        times, kept = await self._limits()
        if not kept or not await self._store.acquire("retention", self._me, seconds=_HELD):
            return 0
        self._until = time.monotonic() + _LONGEST
        random.shuffle(kept)  # so that it is not always the same runs that a sweep does not get to
        deleted = sum([await self._delete_expired(each, times) for each in kept])
        for each in kept:
            await self._close_idle(each)
        await self._store.release("retention", self._me)
        if deleted:
            logger.info("deleted %d runs that were kept as long as their limits say", deleted)
        return deleted

    async def _limits(self) -> tuple[dict[str, float], list[_Kept]]:
        """For how long runs of each function are kept that has a limit, and whose runs are to be looked for."""
        functions = {each.id: each.limits.retention for each in await self._store.list_records(Function, limit=None)}
        times = {name: seconds for name, seconds in functions.items() if seconds is not None}
        for namespace in await self._store.list_records(Namespace, limit=None):
            if (seconds := namespace.limits.retention) is not None:
                for name in await self._store.functions_of_runs(namespace.id):
                    times[name] = min(seconds, times.get(name, seconds))
        kept = [_Kept(seconds, function=name) for name, seconds in times.items()]
        if times:
            kept.append(_Kept(min(times.values()), function=""))
        for user in await self._store.list_records(User, limit=None):
            if user.limits.retention is not None:
                kept.append(_Kept(user.limits.retention, user=user.id))
        return times, kept

    def _in_time(self) -> bool:
        return time.monotonic() < self._until

    async def _delete_expired(self, kept: _Kept, times: dict[str, float]) -> int:
        deleted, after = 0, (0.0, "")
        while self._in_time():
            begun, before = time.monotonic(), self._store.now() - kept.seconds
            runs = await self._store.expired_runs(
                user=kept.user, function=kept.function, before=before, after=after, limit=_PAGE
            )
            if not runs:
                break
            after = (_finished(runs[-1]), runs[-1].id)
            expired = [run for run in runs if kept.function != "" or await self._is_expired(run, times)]
            deleted += await self._delete(run.id for run in expired)
            await asyncio.sleep(min(time.monotonic() - begun, 1.0))  # leaves the store to others for as long
        return deleted

    async def _is_expired(self, run: Run, times: dict[str, float]) -> bool:
        """Whether the time of a run of several functions is over, by the shortest of them. Its blocks know them."""
        functions = {outcome.function for outcome in await self._store.list_blocks(run.id)}
        seconds = min((times[name] for name in functions if name in times), default=None)
        return seconds is not None and _finished(run) + seconds < self._store.now()

    async def _delete(self, run_ids: Iterable[str]) -> int:
        ids = list(run_ids)
        followed = await self._store.get_documents(FOLLOWING, ids)
        needed = {document.id for document in followed if document.due is not None}
        ids = [run_id for run_id in ids if run_id not in needed]
        for start in range(0, len(ids), _AT_ONCE):
            if not self._in_time():
                return start
            await asyncio.gather(*map(self._delete_run, ids[start : start + _AT_ONCE]))
        return len(ids)

    async def _delete_run(self, run_id: str) -> None:
        while not await self._store.delete_run(run_id, blocks=_BLOCKS):
            continue

    async def _close_idle(self, kept: _Kept) -> None:
        before = self._store.now() - max(kept.seconds, _IDLE)
        limit = _PAGE
        while self._in_time():
            idle = await self._store.idle_runs(user=kept.user, function=kept.function, before=before, limit=limit)
            wanted = {document.id for document in await self._store.get_documents(KEPT_OPEN, idle)}
            for run_id in idle:
                if run_id not in wanted:
                    await self._store.update_run(run_id, state=RunState.CLOSED)
            if len(idle) < limit:
                return
            limit = _PAGE + len(wanted)  # these come first again


def _finished(run: Run) -> float:
    return run.finished.time if run.finished else 0.0
