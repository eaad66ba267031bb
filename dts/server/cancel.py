"""Ends the jobs of a cancelled run. Safe to repeat and to interrupt: timekeeper finishes what a server began."""

from __future__ import annotations

from dts.server.results import cancelled_candidate
from dts.store import Store

_PAGE = 50


async def cancel_jobs_of_run(store: Store, run_id: str) -> int:
    """Record every job of a run that has not ended as cancelled; returns how many that were."""
    cancelled, after = 0, -1
    while outcomes := await store.list_blocks(run_id, limit=_PAGE, after=after):
        candidates = [cancelled_candidate(each, each.unfinished) for each in outcomes if each.unfinished]
        for ended in await store.record(candidates):
            cancelled += (ended or 0).bit_count()
        after = int(outcomes[-1].block.rpartition("-")[2])
    return cancelled
