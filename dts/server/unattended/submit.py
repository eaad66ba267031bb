"""Submits jobs on behalf of a user, under a run id that follows from why: the same submission twice is made once.

A run is opened, gets its blocks, and is closed. Whoever finds it open goes on where the other stopped: ids, numbers and
bodies of blocks are the same each time, so what is there already stays as it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from dts.broker import Broker
from dts.errors import BlockConflict, BlockTooLate, DuplicateKey
from dts.model import MAX_BLOCK_SIZE, Document, Function, Run, RunState, User
from dts.server.access.limits import Limiter, OverLimit
from dts.server.access.reach import why_not
from dts.server.ending.late_blocks import add_blocks
from dts.server.ending.retention import KEPT_OPEN
from dts.server.intake.ingest import Arguments, batch_from_arguments, new_block
from dts.server.intake.memo import answer_from_memo, record_answers
from dts.server.lookup.catalogue import Catalogue
from dts.store import Store
from dts.wire import dts_pb2
from dts.wire.queues import TOPIC_LEFT

__all__ = ["OverLimit", "Refused", "Submitter"]

_LONGEST = 366 * 86400.0
"""Seconds for which a run is kept open whose blocks come from other runs."""


class Refused(Exception):
    """A user may not run a function now. The message says why."""


class Submitter:
    """Submits jobs with the rights and within the limits that a user has at that time."""

    def __init__(self, store: Store, broker: Broker, catalogue: Catalogue) -> None:
        self._store = store
        self._broker = broker
        self._catalogue = catalogue
        self._limiter = Limiter(store, catalogue)

    async def permit(self, user_id: str, name: str) -> tuple[User, Function]:
        """The user and the function, if that user may run it now.

        Raises:
            Refused: they may not.
            StoreUnavailable: nobody can tell.
        """
        user = await self._store.get_user(user_id)
        if reason := await why_not(self._catalogue, user, name):
            raise Refused(reason)
        function = await self._catalogue.get(name)
        assert user is not None
        assert function is not None
        return user, function

    async def submit(self, run: Run, jobs: Sequence[Arguments]) -> None:
        """Submit jobs as a whole run, which is closed then; nothing is done to a run of that id that is closed.

        Raises:
            Refused: the run's user may not run its function now.
            OverLimit: a limit does not let the jobs in now.
            StoreUnavailable: some may be stored; the same again completes it.
        """
        stored = await self._store.get_run(run.id)
        if stored is None:
            user, function = await self.permit(run.user, run.function)
            async with self._limiter.jobs(user, [(function, len(jobs))], divisible=False):
                await self._fill(await self.open(run), jobs)
        elif stored.state is RunState.OPEN:
            await self._fill(stored, jobs)  # it was let in when it was opened

    async def open(self, run: Run) -> Run:
        """Add a run, with the version of its function that is active now, unless it is there; returns it as stored."""
        function = await self._catalogue.get(run.function)
        if function is not None and function.active_version:
            run = replace(run, options=dts_pb2.Options(version=function.active_version).SerializeToString())
        try:
            await self._store.add_run(run)
        except DuplicateKey:
            return await self._store.get_run(run.id) or run
        return run

    async def keep_open(self, run: Run) -> Run:
        """Open a run whose blocks come when other runs have results, and keep it open until `close`."""
        expires = self._store.now() + _LONGEST
        await self._store.put_documents([Document(KEPT_OPEN, run.id, {}, expires=expires)])
        return await self.open(run)

    async def add_within_limits(self, run: Run, number: int, batch: dts_pb2.JobBatch) -> None:
        """Add a block to a run, unless there is one of that number.

        Raises:
            Refused: the run's user may not run its function now, or the run is closed.
            OverLimit: a limit does not let the jobs in now.
        """
        user, function = await self.permit(run.user, run.function)
        async with self._limiter.jobs(user, [(function, len(batch.jobs))], divisible=False):
            await self._add(run, number, batch)

    async def close(self, run_id: str) -> None:
        """Close a run, and have what it has published."""
        await self._store.update_run(run_id, state=RunState.CLOSED)
        await self._store.delete_documents(KEPT_OPEN, [run_id])
        await self.announce()

    async def announce(self) -> None:
        """Tell the dispatcher that there are blocks to publish."""
        await self._broker.broadcast(TOPIC_LEFT, "")

    async def _add(self, run: Run, number: int, batch: dts_pb2.JobBatch) -> None:
        if run.options:
            batch.options.MergeFromString(run.options)
        block = new_block(run, number, run.function, batch)
        function = await self._catalogue.get(run.function)
        answer = None if function is None else await answer_from_memo(self._store, function, block, batch)
        try:
            [added] = await add_blocks(self._store, [block])
        except BlockConflict:
            return  # it was stored before, as it was then
        except BlockTooLate as error:
            there = await self._store.get_run(run.id)
            if there is not None and there.state is RunState.CLOSED:
                raise Refused(str(error)) from error
            return  # the run is cancelled, and the block's jobs have ended; or it is deleted
        if added and answer is not None:
            await record_answers(self._store, [answer])

    async def _fill(self, run: Run, jobs: Sequence[Arguments]) -> None:
        for number, start in enumerate(range(0, len(jobs), MAX_BLOCK_SIZE)):
            await self._add(run, number, batch_from_arguments(jobs[start : start + MAX_BLOCK_SIZE]))
        await self.close(run.id)


async def has_finished(store: Store, run_id: str) -> bool:
    """Whether a run takes no more jobs and all of its jobs have ended; so has one that is not there any more.

    Single jobs may be stored a moment after their run: without any, it has not finished.
    """
    run = await store.get_run(run_id)
    if run is None:
        return True
    if run.state is RunState.OPEN:
        return False
    statistics = await store.run_statistics(run_id)
    return statistics.ended == statistics.total and (statistics.total > 0 or not run.single)
