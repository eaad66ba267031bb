"""Ends jobs that were cancelled: of a run, of a user, of a function. Works while every worker and the broker are down.

Safe to repeat and to interrupt: that a run is cancelled is recorded first, and timekeeper finishes what a server began.

A block may be on its way into the store while its run is cancelled. Whoever cancels records that, then ends the jobs
of all blocks that are there; whoever brings a block stores it, then learns from the store whether the run is cancelled,
and if so ends the block's jobs: each block is seen by one of the two. Who dies in between leaves a run to `sweep`.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Sequence

from dts.broker import Broker
from dts.errors import BlockTooLate
from dts.model import Block, Claim, Outcome, Run, bitmap, job_id
from dts.server.record.blocks import outcomes_of
from dts.server.record.results import cancelled_candidate
from dts.store import Store
from dts.wire.queues import TOPIC_CANCELLED, TOPIC_RESULTS

logger = logging.getLogger(__name__)

_PAGE = 50
_AT_ONCE = 50  # blocks whose jobs end before a request to cancel them is answered
_BLOCKS = 500  # that are read at once
_RUNS = 500  # that are swept at once
_IDS = 100  # in one event

REMEMBER = 24 * 3600.0
"""Seconds for which workers that come back are told of a cancellation."""

_OVERLAP = 60.0
"""Seconds in which a server's connection to the broker may be away while another process has one."""

MOST_REMEMBERED = 10_000
"""Cancellations that such a worker is told of at most, the latest."""


async def cancel_jobs_of_run(store: Store, run_id: str) -> int:
    """Record every job of a cancelled run that has not ended as cancelled; returns how many that were."""
    cancelled = await _cancel_blocks_of_run(store, run_id)
    await store.note_swept([run_id])
    return cancelled


async def add_blocks(
    store: Store, blocks: Sequence[Block], *, run: Run | None = None, claim: Claim | None = None
) -> list[bool]:
    """Store blocks of one run, as `Store.add_blocks` does; when they come too late, end what was stored of them.

    Raises:
        BlockConflict: a different block is there under the same number.
        BlockTooLate: the run was cancelled, or deleted. Every job of the blocks has ended, or has gone with the run.
        StoreUnavailable: they may or may not be stored; the same again is harmless.
    """
    try:
        return await store.add_blocks(blocks, run=run, claim=claim)
    except BlockTooLate:
        await _cancel_late_blocks(store, blocks[0].run, [block.id for block in blocks])
        raise


async def sweep(store: Store, broker: Broker, *, due_before: float) -> int:
    """End the jobs that are left of cancelled runs; returns how many jobs that were.

    Of blocks that nobody has published, those that could have been before `due_before` (seconds since the epoch).
    """
    cancelled = 0
    seen: set[str] = set()
    while runs := set(await store.unswept_runs(due_before=due_before, limit=_RUNS)) - seen:
        cancelled += await _cancel_blocks_of_runs(store, broker, sorted(runs))
        await store.note_swept(sorted(runs))
        seen |= runs
    return cancelled


async def cancel_unfinished(
    store: Store, broker: Broker, *, user: str | None = None, function: str | None = None
) -> tuple[int, set[str]]:
    """Cancel what has not ended of a user, of a function, or of a user's jobs of a function.

    Runs that have no other function are cancelled as a whole, so that they take no more blocks. Returns how many jobs
    had not ended when they were cancelled, and the ids of the runs that they are of.

    A few blocks end at once. With more, their runs are cancelled, which is durable, and timekeeper's sweep ends the
    jobs within seconds: to end thousands would take the caller's patience, and everybody else's turn.
    """
    cancelled, after = 0, ""
    runs: set[str] = set()
    whole: dict[str, bool] = {}
    while outcomes := await store.unfinished_blocks(user=user, function=function, limit=_BLOCKS, after=after):
        new = sorted({outcome.run for outcome in outcomes} - runs)
        runs |= set(new)
        found = await store.cancel_runs(new, function=function)
        whole |= found
        await announce_cancelled(broker, sorted(found))
        counted = [outcome for outcome in outcomes if whole.get(outcome.run, True)]  # the others were before
        cancelled += sum(outcome.unfinished.bit_count() for outcome in counted)
        parts = [outcome for outcome in outcomes if outcome.run not in whole]
        await _cancel(store, parts if after or len(outcomes) > _AT_ONCE else outcomes)
        await _tell_of_jobs(store, broker, parts)
        after = outcomes[-1].block
    await _announce_results(broker, runs)
    return cancelled, runs


async def cancel_job(
    store: Store,
    broker: Broker,
    outcome: Outcome,
    index: int,
    job_id: str,
    *,
    partials: bytes = b"",
    version: str = "",
) -> bool:
    """Cancel one job, durably; False if it has ended already. `partials` and `version` are put on record with that."""
    [ended] = await store.record([cancelled_candidate(outcome, 1 << index, partials=partials, version=version)])
    if ended:
        await store.note_cancelled([job_id], now=time.time())
        await store.release_jobs({outcome.block: 1 << index})
    await broker.broadcast(TOPIC_CANCELLED, job_id)
    return bool(ended)


async def announce_cancelled(broker: Broker, ids: Sequence[str]) -> bool:
    """Tell the workers which runs and jobs are cancelled; False if the broker is away."""
    for start in range(0, len(ids), _IDS):
        if not await broker.broadcast(TOPIC_CANCELLED, " ".join(ids[start : start + _IDS])):
            return False
    return True


async def recently_cancelled(store: Store) -> list[str]:
    """Ids of the runs and jobs that were cancelled lately, for a worker that has just come."""
    since = time.time() - REMEMBER
    runs = await store.cancelled_runs(since, limit=MOST_REMEMBERED)
    jobs = await store.recently_cancelled(since, limit=MOST_REMEMBERED)
    return runs[::-1] + jobs


class Reminder:
    """Tells the workers again what was cancelled lately, since whoever cancelled it may not have been able to."""

    def __init__(self, store: Store, broker: Broker) -> None:
        self._store, self._broker = store, broker
        self._told_until = 0.0

    async def remind(self) -> None:
        """Tell of the latest cancellations, and of all since shortly before this was last possible.

        Raises:
            StoreUnavailable: the store does not answer.
        """
        now = time.time()
        since = max(now - REMEMBER, self._told_until - _OVERLAP)
        ids = {
            **dict.fromkeys(await self._store.cancelled_runs(since, limit=MOST_REMEMBERED)),
            **dict.fromkeys(await self._store.cancelled_runs(now - REMEMBER, limit=_IDS)),
            **dict.fromkeys(await self._store.recently_cancelled(since, limit=MOST_REMEMBERED)),
            **dict.fromkeys(await self._store.recently_cancelled(now - REMEMBER, limit=_IDS)),
        }
        if await announce_cancelled(self._broker, list(ids)):
            self._told_until = now


async def _cancel_late_blocks(store: Store, run_id: str, block_ids: Iterable[str]) -> None:
    """End the jobs of blocks that came after their run was cancelled, as far as they were stored.

    When the run was deleted, its time being over, they go the same way.
    """
    await _cancel(store, list((await outcomes_of(store, block_ids)).values()))
    if await store.get_run(run_id) is None:
        while not await store.delete_run(run_id, blocks=_PAGE):
            continue


async def _cancel_blocks_of_run(store: Store, run_id: str) -> int:
    cancelled, after = 0, -1
    while outcomes := await store.list_blocks(run_id, limit=_PAGE, after=after):
        cancelled += await _cancel(store, outcomes)
        after = int(outcomes[-1].block.rpartition("-")[2])
    return cancelled


async def _cancel_blocks_of_runs(store: Store, broker: Broker, run_ids: Sequence[str]) -> int:
    """End what has not ended of cancelled runs, a few blocks at a time; returns how many jobs that were."""
    cancelled, after = 0, ""
    while outcomes := await store.unfinished_blocks(runs=run_ids, limit=_PAGE, after=after):
        if count := await _cancel(store, outcomes):
            runs = sorted({outcome.run for outcome in outcomes})
            logger.info("ended %d jobs of %d cancelled runs, the first is %s", count, len(runs), runs[0])
            await _announce_results(broker, runs)
            cancelled += count
        after = outcomes[-1].block
    return cancelled


async def _announce_results(broker: Broker, run_ids: Iterable[str]) -> None:
    """Tell the servers that there are results of runs."""
    ids = sorted(run_ids)
    for start in range(0, len(ids), _IDS):
        await broker.broadcast(TOPIC_RESULTS, " ".join(ids[start : start + _IDS]))


async def _tell_of_jobs(store: Store, broker: Broker, outcomes: Sequence[Outcome]) -> None:
    """Tell the workers of jobs that were cancelled, but not with all that is in their run."""
    if not outcomes:
        return
    ids = [
        job_id(outcome.run, outcome.first + index)
        for outcome in outcomes
        for index in bitmap.indices(outcome.unfinished)
    ]
    await store.note_cancelled(ids, now=time.time())
    await announce_cancelled(broker, ids)


async def _cancel(store: Store, outcomes: Sequence[Outcome]) -> int:
    open_ = [outcome for outcome in outcomes if outcome.unfinished]
    if not open_:
        return 0
    ended = await store.record([cancelled_candidate(outcome, outcome.unfinished) for outcome in open_])
    # Also of jobs that had ended before: whoever was cancelling may have been interrupted here.
    await store.release_jobs({outcome.block: (1 << outcome.count) - 1 for outcome in open_})
    return sum((each or 0).bit_count() for each in ended)
