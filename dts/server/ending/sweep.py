"""Ends the jobs that are left of cancelled runs: of many jobs, or of a server that died while it cancelled."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from dts.broker import Broker
from dts.server.ending.cancel import end_jobs
from dts.server.ending.notices import announce_results
from dts.store import Store

logger = logging.getLogger(__name__)

_BLOCKS = 50  # whose jobs are ended at once
_RUNS = 100  # that are swept at once; MongoDB merges so many ranges of an index in order


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


async def _cancel_blocks_of_runs(store: Store, broker: Broker, run_ids: Sequence[str]) -> int:
    """End what has not ended of cancelled runs, a few blocks at a time; returns how many jobs that were."""
    cancelled, after = 0, ""
    while outcomes := await store.unfinished_blocks(runs=run_ids, limit=_BLOCKS, after=after):
        if count := await end_jobs(store, outcomes):
            runs = sorted({outcome.run for outcome in outcomes})
            logger.info("ended %d jobs of %d cancelled runs, the first is %s", count, len(runs), runs[0])
            await announce_results(broker, runs)
            cancelled += count
        after = outcomes[-1].block
    return cancelled
