"""Ends jobs that were cancelled: of a run, of a user, of a function. Works while every worker and the broker are down.

Safe to repeat and to interrupt: that a run is cancelled is recorded first, and timekeeper finishes what a server began.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

from dts.broker import Broker
from dts.model import Outcome, Run, RunState, bitmap, job_id
from dts.server.ending.notices import announce_cancelled, announce_results
from dts.server.record.results import cancelled_candidate
from dts.store import Store
from dts.wire.queues import TOPIC_CANCELLED

logger = logging.getLogger(__name__)

_PAGE = 50
_AT_ONCE = 50  # blocks whose jobs end before a request to cancel them is answered
_BLOCKS = 500  # that are read at once


async def cancel_run(store: Store, broker: Broker, run_id: str) -> Run | None:
    """Cancel a run and end its jobs, unless it has finished; returns it as it is then, None if there is none.

    A run that was cancelled before is cancelled still. An open one takes no more blocks from now on.
    """
    await store.finish_runs([run_id])
    run = await store.update_run(run_id, state=RunState.CANCELLED)
    if run is None or run.state is not RunState.CANCELLED:
        return run
    await broker.broadcast(TOPIC_CANCELLED, run_id)
    await cancel_jobs_of_run(store, run_id)
    return await store.get_run(run_id)


async def cancel_jobs_of_run(store: Store, run_id: str) -> int:
    """Record every job of a cancelled run that has not ended as cancelled; returns how many that were."""
    cancelled = await _cancel_blocks_of_run(store, run_id)
    await store.note_swept([run_id])
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
        await end_jobs(store, parts if after or len(outcomes) > _AT_ONCE else outcomes)
        await _tell_of_jobs(store, broker, parts)
        after = outcomes[-1].block
    await announce_results(broker, runs)
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
        await store.note_cancelled([job_id], now=store.now())
        await store.release_jobs({outcome.block: 1 << index})
    await broker.broadcast(TOPIC_CANCELLED, job_id)
    return bool(ended)


async def _cancel_blocks_of_run(store: Store, run_id: str) -> int:
    cancelled, after = 0, -1
    while outcomes := await store.list_blocks(run_id, limit=_PAGE, after=after):
        cancelled += await end_jobs(store, outcomes)
        after = int(outcomes[-1].block.rpartition("-")[2])
    return cancelled


async def _tell_of_jobs(store: Store, broker: Broker, outcomes: Sequence[Outcome]) -> None:
    """Tell the workers of jobs that were cancelled, but not with all that is in their run."""
    if not outcomes:
        return
    ids = [
        job_id(outcome.run, outcome.first + index)
        for outcome in outcomes
        for index in bitmap.indices(outcome.unfinished)
    ]
    await store.note_cancelled(ids, now=store.now())
    await announce_cancelled(broker, ids)


async def end_jobs(store: Store, outcomes: Sequence[Outcome]) -> int:
    """Record the unfinished jobs of blocks as cancelled; returns how many that were."""
    open_ = [outcome for outcome in outcomes if outcome.unfinished]
    if not open_:
        return 0
    ended = await store.record([cancelled_candidate(outcome, outcome.unfinished) for outcome in open_])
    # Also of jobs that had ended before: whoever was cancelling may have been interrupted here.
    await store.release_jobs({outcome.block: (1 << outcome.count) - 1 for outcome in open_})
    return sum((each or 0).bit_count() for each in ended)
