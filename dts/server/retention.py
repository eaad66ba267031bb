"""Removes runs whose time is over, as the limits of their user, function and namespace say.

The time runs from when a sweep first saw that a run had finished, so that a run which took longer than it may be kept
is there to be collected from. A run is deleted in steps, each a short transaction; a sweep that breaks off is taken up
by the next one, in whatever process.
"""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncIterator
from functools import partial

from dts.model import Function, Namespace, Run, RunState, User, first_id
from dts.store import Store

logger = logging.getLogger(__name__)

_PAGE = 100
_BLOCKS = 20
"""Blocks that are deleted in one step."""


class Retention:
    """Sweeps the store."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._times: dict[str, float] = {}

    async def sweep(self) -> int:
        """Delete what is past its time; how many runs that were.

        Raises:
            StoreUnavailable: it may have been in the middle of a run.
        """
        users = await self._store.list_records(User, limit=None)
        namespaces = await self._store.list_records(Namespace, limit=None)
        functions = await self._store.list_records(Function, limit=None)
        records: list[User | Namespace | Function] = [*users, *namespaces, *functions]
        self._times = {
            f"{type(record).__name__} {record.id}": record.limits.retention
            for record in records
            if record.limits.retention is not None
        }
        if not self._times:
            return 0
        deleted = 0
        async for run in self._older_than(min(self._times.values())):
            seconds = await self._kept(run)
            if seconds is not None and await self._is_over(run, seconds):
                while not await self._store.delete_run(run.id, blocks=_BLOCKS):
                    continue
                deleted += 1
        if deleted:
            logger.info("deleted %d runs that were kept as long as their limits say", deleted)
        return deleted

    async def _older_than(self, seconds: float) -> AsyncIterator[Run]:
        """All runs that were made before so many seconds ago."""
        next_page = partial(self._store.list_runs, limit=_PAGE)
        after = first_id(time.time() - seconds)
        while runs := await next_page(after=after):
            after = runs[-1].id
            for run in runs:
                yield run

    async def _kept(self, run: Run) -> float | None:
        """For how many seconds a finished run is kept; None is for ever."""
        functions = {run.function}
        if not run.function:  # one request with several functions: its blocks know theirs
            functions = {outcome.function for outcome in await self._store.list_blocks(run.id)}
        names = {f"User {run.user}"}
        for function in functions:
            names |= {f"Function {function}", f"Namespace {function.partition('/')[0]}"}
        return min((self._times[name] for name in names if name in self._times), default=None)

    async def _is_over(self, run: Run, seconds: float) -> bool:
        if run.state is RunState.OPEN:
            return False
        statistics = await self._store.run_statistics(run.id)
        if statistics.ended < statistics.total:
            return False
        now = time.time()
        return await self._store.note_finished(run.id, now) + seconds <= now
