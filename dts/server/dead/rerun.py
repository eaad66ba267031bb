"""Runs the failed jobs of a run again, as a new run of the same user: the old one keeps what it has."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace

from dts.errors import BlockTooLate, TooLarge, WireError
from dts.model import Block, Outcome, Run, RunState, new_id
from dts.server.ending.late_blocks import add_blocks
from dts.server.intake.ingest import new_block
from dts.server.lookup.catalogue import Catalogue
from dts.server.publish.publisher import Publisher
from dts.server.record.blocks import decode_block
from dts.server.record.lines import line_numbers
from dts.server.record.results import part_results
from dts.store import Store
from dts.wire import dts_pb2

_PAGE = 100


class Rerun:
    """Makes a new run of the jobs of a run that failed. Their lines keep their numbers."""

    def __init__(self, store: Store, catalogue: Catalogue, publisher: Publisher) -> None:
        self._store = store
        self._catalogue = catalogue
        self._publisher = publisher

    async def rerun(self, before: Run, *, version: str = "") -> tuple[Run, int] | None:
        """The new run, and how many jobs it has; None if no job of the run has failed.

        Its jobs run `version`, the whole hash of one, or the one that is active now.

        Raises:
            StoreUnavailable: the new run may be there, and open, with some of its jobs.
        """
        options = dts_pb2.Options.FromString(before.options)
        options.ClearField("deadline")  # it is over
        options.version = version or await self._active_version(before.function)
        run: Run | None = None
        number = jobs = 0
        after = -1
        while outcomes := await self._store.list_blocks(before.id, limit=_PAGE, after=after):
            for outcome in outcomes:
                found = await self._failed_of(outcome)
                if found is None:
                    continue
                old, batch = found
                if run is None:
                    run = await self._open(before, options)
                batch.options.version = version or await self._active_version(outcome.function)
                await self._send(run, number, old, batch)
                number, jobs = number + 1, jobs + len(batch.jobs)
            after = int(outcomes[-1].block.rpartition("-")[2])
        if run is None:
            return None
        return await self._store.update_run(run.id, state=RunState.CLOSED) or run, jobs

    async def _active_version(self, name: str) -> str:
        function = await self._catalogue.get(name) if name else None
        return function.active_version if function is not None else ""

    async def _open(self, before: Run, options: dts_pb2.Options) -> Run:
        run = Run(
            new_id(),
            before.user,
            before.function,
            before.block_size,
            created=time.time(),
            options=options.SerializeToString(),
            single=before.single,
            priority=before.priority,
            weight=before.weight,
        )
        await self._store.add_run(run)
        return run

    async def _failed_of(self, outcome: Outcome) -> tuple[Block, dts_pb2.JobBatch] | None:
        """A block and its jobs that failed, with the lines that they are for; None if there are none."""
        block = await self._store.get_block(outcome.block) if outcome.failed else None
        if block is None:
            return None
        failed: set[int] = set()
        for part in await self._store.get_parts(outcome.block):
            failed |= {result.index for _, result in part_results(part) if result.status == dts_pb2.FAILED}
        try:
            return (block, _selected(block, sorted(failed))) if failed else None
        except (WireError, TooLarge):  # damaged in the store; its jobs failed for that
            return None

    async def _send(self, run: Run, number: int, old: Block, batch: dts_pb2.JobBatch) -> None:
        block = new_block(run, number, old.function, batch)
        if run.single:  # each of them may have asked for a priority of its own
            block = replace(block, priority=old.priority)
        registered = await self._catalogue.get(old.function)
        claim = await self._publisher.claim([(block, registered)])
        try:
            await add_blocks(self._store, [block], claim=claim)
        except BlockTooLate:
            return  # the new run was cancelled meanwhile
        self._publisher.submit(block, batch, registered, claim)


def _selected(block: Block, indices: Sequence[int]) -> dts_pb2.JobBatch:
    """A batch of some jobs of a block, with what each was asked for and its line."""
    before = decode_block(block)
    lines = line_numbers(before)
    batch = dts_pb2.JobBatch(options=before.options, lease=before.lease)
    batch.options.ClearField("deadline")  # it is over
    batch.options.ClearField("version")
    last = 0
    for index, position in enumerate(each for each in indices if each < len(before.jobs)):
        job = before.jobs[position]
        new = batch.jobs.add(index=index, args=job.args, kwargs=job.kwargs)
        if job.HasField("options"):
            new.options.CopyFrom(job.options)
            new.options.ClearField("deadline")
            new.options.ClearField("version")
        if lines is None:
            continue
        if not batch.first_line:
            batch.first_line = last = lines[position]
            batch.skipped.append(0)
        else:
            batch.skipped.append(lines[position] - last - 1)
            last = lines[position]
    return batch
