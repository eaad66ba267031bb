"""What porter does with results that are no end: attempts to come, and jobs that are held under a lease."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from operator import or_

from dts.model import Candidate, DelayedSlice, Lease, bitmap
from dts.server.delayed import delayed_slices, digest_of
from dts.server.leases import claims_of, stale_jobs
from dts.server.poison import Poison
from dts.store import Store
from dts.wire import dts_pb2

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Reading:
    """A message of results: what it says, and what it asks of the record.

    `retried` has the jobs to run again, `poisoned` those that have failed since they kill whatever runs them.
    """

    batch: dts_pb2.ResultBatch
    candidate: Candidate
    retried: int
    poisoned: int = 0

    @property
    def fenced(self) -> bool:
        """Whether its jobs run under leases: a message has such jobs only, or none."""
        return bool(self.batch.claims) or bool(self.batch.results and self.batch.results[0].fence)


class Attempts:
    """Brings readings into the store. Nearly all have neither retries nor leases, and cost no more than to record."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._poison = Poison(store)

    async def record(self, readings: Sequence[Reading]) -> None:
        """Record readings; safe to repeat.

        Raises:
            StoreUnavailable: some may be recorded and some not.
        """
        fenced = [reading for reading in readings if reading.fenced]
        if fenced:
            readings = await self._without_stale(readings, fenced)
        for reading in readings:
            if reading.poisoned:
                await self._keep(reading)
        candidates = [reading.candidate for reading in readings]
        await self._store.record(candidates)
        retried = [reading for reading in readings if reading.retried]
        if retried:
            await self._delay(retried)
        if fenced:
            await self._let_go(readings)

    async def _keep(self, reading: Reading) -> None:
        """Keep letters of jobs that are poison, before their end is on record and nobody asks for them any more."""
        batch = reading.batch
        outcome = await self._store.get_outcome(batch.block)
        if outcome is not None:
            poisoned = {result.index: result for result in batch.results if reading.poisoned >> result.index & 1}
            await self._poison.keep(outcome, poisoned, batch.worker)

    async def _without_stale(self, readings: Sequence[Reading], fenced: Sequence[Reading]) -> list[Reading]:
        """Take the leases that are claimed; then leave out whatever comes from somebody who has lost his."""
        claims = [lease for reading in fenced for lease in claims_of(reading.batch)]
        if claims:
            await self._store.take_leases(claims)
        leases = await self._store.list_leases(sorted({reading.batch.block for reading in fenced}))
        return [_valid(reading, leases) if reading.fenced else reading for reading in readings]

    async def _delay(self, readings: Sequence[Reading]) -> None:
        outcomes = await asyncio.gather(*(self._store.get_outcome(reading.batch.block) for reading in readings))
        waiting = await self._waiting({reading.batch.block for reading in readings})
        now = time.time()
        slices: list[DelayedSlice] = []
        for reading, outcome in zip(readings, outcomes, strict=True):
            if outcome is not None:
                digest = digest_of(reading.candidate.body)
                jobs = reading.retried & ~waiting[outcome.block]
                slices += delayed_slices(reading.batch, jobs, digest, outcome, now)
                waiting[outcome.block] |= jobs
        await self._store.add_delayed(slices)
        await self._let_ended_go(slices)

    async def _let_ended_go(self, slices: Sequence[DelayedSlice]) -> None:
        """Take jobs out that were cancelled meanwhile: who cancelled them may have come before there were slices."""
        jobs: defaultdict[str, int] = defaultdict(int)
        for each in slices:
            jobs[each.block] |= each.jobs
        outcomes = await asyncio.gather(*(self._store.get_outcome(block) for block in jobs))
        ended = {outcome.block: outcome.ended & jobs[outcome.block] for outcome in outcomes if outcome is not None}
        if any(ended.values()):
            await self._store.release_jobs(ended)

    async def _waiting(self, blocks: Collection[str]) -> dict[str, int]:
        """The jobs that wait for an attempt already: a message that was redelivered was worked at twice."""
        found = await asyncio.gather(*(self._store.list_delayed(block) for block in blocks))
        return {
            block: reduce(or_, (each.jobs for each in slices), 0) for block, slices in zip(blocks, found, strict=True)
        }

    async def _let_go(self, readings: Sequence[Reading]) -> None:
        """End the leases of jobs that have ended, and pass on those of jobs that are to run again."""
        ended: dict[str, int] = {}
        for reading in readings:
            if reading.fenced:
                block = reading.batch.block
                ended[block] = ended.get(block, 0) | reading.candidate.ended
                for result in reading.batch.results:
                    if reading.retried >> result.index & 1 and result.fence:
                        await self._store.pass_lease(_lease(reading.batch, result))
        await self._store.release_jobs(ended)


def _valid(reading: Reading, leases: Sequence[Lease]) -> Reading:
    """A reading without what is void."""
    stale = stale_jobs(reading.batch, leases)
    if stale:
        batch, count = reading.batch, stale.bit_count()
        logger.info(
            "%d late results of %s for block %s are void: it had lost the jobs", count, batch.worker, batch.block
        )
    held = {(lease.job, lease.fence) for lease in leases if lease.block == reading.batch.block and not lease.lost}
    claimed = bitmap.from_indices(claim.index for claim in reading.batch.claims if (claim.index, claim.fence) in held)
    candidate = reading.candidate
    return Reading(
        reading.batch,
        replace(
            candidate,
            succeeded=candidate.succeeded & ~stale,
            failed=candidate.failed & ~stale,
            cancelled=candidate.cancelled & ~stale,
            running=candidate.running | claimed,
            stopped=candidate.stopped & ~stale,
        ),
        reading.retried & ~stale,
        reading.poisoned & ~stale,
    )


def _lease(batch: dts_pb2.ResultBatch, result: dts_pb2.Result) -> Lease:
    return Lease(batch.block, result.index, batch.run, batch.worker, result.fence, result.attempt or 1, None)
