"""Long jobs: claimed under a lease that heartbeats of their worker extend, queued again when it expires.

A job's fence goes up whenever it is queued again, and what comes with an older one is void. That happens in three
steps, each safe to repeat by anybody: the lease is marked as lost under the next fence; a delayed slice that is due at
once is added, whose id follows from that fence; the lease is noted as queued.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

from dts.model import Candidate, DelayedSlice, Lease, bitmap
from dts.server.attempts.poison import REASON_POISON, Poison
from dts.server.record.digests import digest_of
from dts.server.record.results import failed_candidate
from dts.store import Store
from dts.wire import dts_pb2

logger = logging.getLogger(__name__)

_LIMIT = 100

MAX_LOSSES = 20
"""Workers that a job may be lost with before it counts as what takes them away: as many as a message's hand-overs."""


def claims_of(batch: dts_pb2.ResultBatch, now: float) -> list[Lease]:
    """The leases that a batch claims, from `now` on by the store's clock, whatever time its worker's host has."""
    return [
        Lease(batch.block, claim.index, batch.run, batch.worker, claim.fence, max(claim.fence, 1), now + claim.seconds)
        for claim in batch.claims
    ]


def stale_jobs(batch: dts_pb2.ResultBatch, leases: Sequence[Lease]) -> int:
    """The jobs, as a bitmap, whose results in a batch come from a worker that has lost them."""
    fences = {lease.job: lease.fence for lease in leases if lease.block == batch.block}
    return bitmap.from_indices(result.index for result in batch.results if result.fence < fences.get(result.index, 0))


async def requeue_expired(store: Store) -> int:
    """Queue the jobs of expired leases again; returns how many leases this call found to be lost.

    Raises:
        StoreUnavailable: the store does not answer; what is left over comes again.
    """
    lost = 0
    while leases := await store.expired_leases(now=store.now(), limit=_LIMIT):
        for lease in leases:
            current = lease if lease.lost else await store.lose_lease(lease)
            if current is None:
                continue  # extended, or lost to somebody else, who goes on
            if not lease.lost:
                lost += 1
                logger.warning("job %d of block %s is lost with worker %s", lease.job, lease.block, lease.worker)
            await _queue_again(store, current)
    return lost


async def _queue_again(store: Store, lease: Lease) -> None:
    outcome = await store.get_outcome(lease.block)
    if outcome is None or outcome.ended >> lease.job & 1:
        await store.release_jobs({lease.block: 1 << lease.job})
        return
    if lease.fence > MAX_LOSSES:
        why = f"{MAX_LOSSES} workers were lost while they ran it"
        failed = failed_candidate(outcome, 1 << lease.job, kind="Poison", message=why, reason=REASON_POISON)
        error = dts_pb2.Error(type="Poison", message=why, reason=REASON_POISON)
        last = dts_pb2.Result(index=lease.job, error=error, attempt=lease.attempt)
        await Poison(store).keep(outcome, {lease.job: last}, lease.worker)
        await store.record([failed])
        await store.release_jobs({lease.block: 1 << lease.job})
        return
    name = digest_of(f"{lease.block}.{lease.job}.{lease.fence}".encode()).hex()
    again = DelayedSlice(
        id=f"{lease.block}.{name}",
        block=lease.block,
        run=outcome.run,
        user=outcome.user,
        function=outcome.function,
        due=store.now(),
        jobs=1 << lease.job,
        attempt=lease.attempt + 1,
        fences={lease.job: lease.fence},
    )
    await store.add_delayed([again])
    await store.record([Candidate(lease.block, stopped=1 << lease.job)])
    await store.queue_lease(lease)
