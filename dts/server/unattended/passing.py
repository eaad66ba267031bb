"""`then`: the results of a run become the jobs of the next one as they come.

A part of a block's outcome never changes once it is recorded, so it makes one block of the next run, whose number
follows from the part's: whoever passes it on, and however often, makes the same block.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace

from dts.broker import Broker
from dts.errors import TooLarge, WireError
from dts.model import MAX_BLOCK_SIZE, Outcome, Part, Run, RunState
from dts.server.ending.cancel import cancel_run
from dts.server.intake.following import Following, follow, then_run_id
from dts.server.record.lines import lines_of_parts
from dts.server.record.results import part_results
from dts.server.unattended.progress import Progress
from dts.server.unattended.submit import Refused, Submitter
from dts.store import Store
from dts.wire import dts_pb2

logger = logging.getLogger(__name__)

_BLOCKS = 100  # that are read at once
_PARTS = 300
"""Parts that are passed on in one turn: some seconds on a slow disk, before others have theirs."""

_LAST_JOB = 10**18 - MAX_BLOCK_SIZE
"""The number of the first job of a block at most: ids of jobs have 18 digits for it."""


class Passing:
    """Passes results on."""

    def __init__(self, store: Store, broker: Broker, submitter: Submitter) -> None:
        self._store = store
        self._broker = broker
        self._submitter = submitter

    async def pass_on(self, run: Run, wants: Following, progress: Progress, *, finished: bool) -> None:
        """Make jobs of what has come of a run's results; when it has `finished` and all are passed on, no more come.

        Raises:
            OverLimit: a limit does not let the next ones in now.
            StoreUnavailable: some may be passed on; the same again does the rest.
        """
        following = await self._open(run, wants)
        try:
            if run.state is RunState.CANCELLED:
                raise Refused(f"run {run.id} was cancelled")
            is_all = await self._pass_parts(run, following, progress, finished=finished)
        except Refused as error:
            await cancel_run(self._store, self._broker, following.id)
            progress.fail(f"{following.function} is not called: {error}")
            progress.passed_on = True
        else:
            if finished and is_all:
                await self._submitter.close(following.id)
                progress.passed_on = True

    async def _open(self, run: Run, wants: Following) -> Run:
        run_id = then_run_id(run.id)
        if (there := await self._store.get_run(run_id)) is not None:
            return there
        await follow(self._store, run_id, wants.next)
        following = next_run(run, run_id, wants.then[0], now=self._store.now())
        return await self._submitter.keep_open(replace(following, follow_up=bool(wants.next.functions)))

    async def _pass_parts(self, run: Run, following: Run, progress: Progress, *, finished: bool) -> bool:
        """Pass on parts that were not; whether these are all that there are now."""
        count = 0
        all_done = finished  # no block comes any more between those that are there
        async for outcome in self._blocks(run, progress.low - 1):
            number = outcome.first // run.block_size
            before = progress.passed.get(str(number), 0)
            if outcome.parts > before:
                parts = (await self._store.get_parts(outcome.block))[before:]
                lines = (await lines_of_parts(self._store, parts)).get(outcome.block)
                for part in parts:
                    await self._pass_part(part, following, number * run.block_size + part.number, lines)
                    progress.passed[str(number)] = part.number + 1
                    count += 1
            is_done = not outcome.unfinished and progress.passed.get(str(number), 0) >= outcome.parts
            all_done = all_done and is_done
            if is_done and (all_done or number == progress.low):
                # Forget what is done with at the beginning, so that the next look begins behind it.
                progress.passed.pop(str(number), None)
                progress.low = number + 1
            if count >= _PARTS:
                break
        if count:
            progress.moved = True
            await self._submitter.announce()
        return count < _PARTS

    async def _blocks(self, run: Run, after: int) -> AsyncIterator[Outcome]:
        while outcomes := await self._store.list_blocks(run.id, limit=_BLOCKS, after=after):
            for outcome in outcomes:
                yield outcome
            after = outcomes[-1].first // run.block_size

    async def _pass_part(self, part: Part, following: Run, number: int, lines: Sequence[int] | None) -> None:
        try:
            batch = _jobs_of(part, lines)
        except (WireError, TooLarge) as error:
            logger.error("results of block %s cannot be passed on to %s: %s", part.block, following.function, error)
            return
        if batch.jobs and number * following.block_size > _LAST_JOB:
            raise Refused("the numbers of its jobs would be too large")
        if batch.jobs:
            await self._submitter.add_within_limits(following, number, batch)


def next_run(run: Run, run_id: str, function: str, *, now: float) -> Run:
    """A run of the same user and turn as another one, over what comes of that."""
    fresh = Run(run_id, run.user, function, run.block_size, created=now)
    return replace(fresh, priority=run.priority, weight=run.weight)


def _jobs_of(part: Part, lines: Sequence[int] | None) -> dts_pb2.JobBatch:
    """A job for each successful result of a part, for the same lines of the input."""
    results = sorted((result for _, result in part_results(part)), key=lambda result: result.index)
    results = [result for result in results if result.status == dts_pb2.SUCCEEDED]
    batch = dts_pb2.JobBatch()
    for index, result in enumerate(results):
        batch.jobs.add(index=index, args=b"[" + (result.value or b"null") + b"]")
    if lines is not None and results:
        last = batch.first_line = lines[results[0].index]
        last -= 1
        for result in results:
            line = lines[result.index]
            batch.skipped.append(line - last - 1)
            last = line
    return batch
