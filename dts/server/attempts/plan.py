"""Records results that end no job: plans the retries that workers asked for, and checks jobs that run under leases.

An attempt that failed is reported, recorded as a slice for the next one, published when that is due, and run: by
others each time, any of whom may do it twice, late, or while somebody else does. What holds all the same:

- A report of attempt n of a job plans attempt n+1, unless a later attempt than n of that job was ever planned. What
  was planned is in the store before the report is acked, and stays there when the slice has fired, for a day.
- So a report is never in vain: either it plans the next attempt, or one that is at least as late was planned, whose
  slice waits, or was published. It does not matter whether that slice is noted as fired when the report comes.
- So whatever is run twice goes on once: a message that was redelivered, a slice that two timekeepers published since
  the claim of the first had ended, a job that was repaired though it was not lost. Each execution of attempt n reports,
  the first report plans attempt n+1, and the others nothing.
- Numbers of attempts only go up: who publishes a job again of which the message may be lost takes the last attempt
  that was planned (see `repair`), and a lost lease the one after its own. An attempt with a number that is over
  already would report in vain.
- A job under a lease has the fence beside that: what comes with an older one is void before any of this is asked.

Two porters that read reports of two executions of the same attempt within the same moment may both plan the next one.
It is run twice then, and goes on once.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from dts.model import Candidate, DelayedSlice, Lease, bitmap
from dts.server.attempts.delays import delayed_slices
from dts.server.attempts.leases import claims_of, stale_jobs
from dts.server.attempts.poison import Poison
from dts.server.record.blocks import outcomes_of
from dts.server.record.digests import digest_of
from dts.store import Store
from dts.wire import dts_pb2

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Reading:
    """A message of results: what it says, and what it asks of the record.

    `retried` has the jobs to run again, `poisoned` those that have failed since they kill whatever runs them.
    `queued` is when the message of its jobs was published, in seconds since the epoch, where that is known.
    """

    batch: dts_pb2.ResultBatch
    candidate: Candidate
    retried: int
    poisoned: int = 0
    queued: float | None = None

    @property
    def run(self) -> str:
        """The run that its block belongs to."""
        return self.batch.block.partition("-")[0]

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
        """Record readings; safe to repeat. Whoever calls it finishes their runs, once the results are announced.

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
        await self._store.record(candidates, finish=False)
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
        now = self._store.now()
        claims = [lease for reading in fenced for lease in claims_of(reading.batch, now)]
        if claims:
            await self._store.take_leases(claims)
        leases = await self._store.list_leases(sorted({reading.batch.block for reading in fenced}))
        return [_valid(reading, leases) if reading.fenced else reading for reading in readings]

    async def _delay(self, readings: Sequence[Reading]) -> None:
        planned = await self._store.planned_attempts(_earliest(readings))
        outcomes = await outcomes_of(self._store, (reading.batch.block for reading in readings))
        now = self._store.now()
        slices: list[DelayedSlice] = []
        for reading in readings:
            if (outcome := outcomes.get(reading.batch.block)) is not None:
                of_block = planned.setdefault(outcome.block, {})
                results = _to_go_on(reading, of_block)
                made = delayed_slices(reading.batch, results, digest_of(reading.candidate.body), outcome, now)
                for each in made:
                    of_block[each.attempt] = of_block.get(each.attempt, 0) | each.jobs
                slices += made
        await self._store.add_delayed(slices)
        await self._let_ended_go(readings)

    async def _let_ended_go(self, readings: Sequence[Reading]) -> None:
        """Take jobs out that were cancelled meanwhile: who cancelled them may have come before there were slices.

        All jobs that are to run again, also those for which slices were made when the same was recorded before: it may
        have been cut off before it came to this.
        """
        jobs: defaultdict[str, int] = defaultdict(int)
        for reading in readings:
            jobs[reading.batch.block] |= reading.retried
        outcomes = await outcomes_of(self._store, jobs)
        ended = {block: outcome.ended & jobs[block] for block, outcome in outcomes.items()}
        if any(ended.values()):
            await self._store.release_jobs(ended)

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


def _retries(reading: Reading) -> Iterator[dts_pb2.Result]:
    """The results of attempts after which there is another one."""
    for result in reading.batch.results:
        if result.status == dts_pb2.RETRY and reading.retried >> result.index & 1:
            yield result


def _earliest(readings: Iterable[Reading]) -> dict[str, int]:
    """The earliest attempt that is to be followed by another, by block: what was planned up to it decides nothing."""
    earliest: dict[str, int] = {}
    for reading in readings:
        block = reading.batch.block
        for result in _retries(reading):
            attempt = result.attempt or 1
            earliest[block] = min(earliest.get(block, attempt), attempt)
    return earliest


def _to_go_on(reading: Reading, planned: Mapping[int, int]) -> list[dts_pb2.Result]:
    """The results after which the next attempt is to be planned, one of a job; `planned` has jobs by later attempts."""
    latest: dict[int, dts_pb2.Result] = {}
    for result in _retries(reading):
        before = latest.get(result.index)
        if before is None or before.attempt < result.attempt:
            latest[result.index] = result
    later: dict[int, int] = {}
    for attempt in {result.attempt or 1 for result in latest.values()}:
        later[attempt] = 0
        for number, jobs in planned.items():
            later[attempt] |= jobs if number > attempt else 0
    return [result for index, result in latest.items() if not later[result.attempt or 1] >> index & 1]


def _valid(reading: Reading, leases: Sequence[Lease]) -> Reading:
    """A reading without what is void."""
    stale = stale_jobs(reading.batch, leases)
    if stale:
        batch, count = reading.batch, stale.bit_count()
        logger.info(
            "ignoring %d late results of worker %s for block %s: its leases had expired",
            count,
            batch.worker,
            batch.block,
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
