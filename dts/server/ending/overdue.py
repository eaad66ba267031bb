"""Ends jobs that were not started before their deadline.

A worker does not start them either; this is for those that no worker gets to see: that wait for a time, or for
somebody to serve their route.
"""

from __future__ import annotations

import time

from dts.model import bitmap
from dts.server.record.blocks import jobs_of
from dts.server.record.deadlines import deadline_of
from dts.server.record.results import failed_candidate
from dts.store import Store

_LIMIT = 50

GRACE = 5.0
"""Seconds after a deadline in which a job that was started just before may still be seen at work."""

_LOOK_AGAIN = 60.0
"""Seconds until a block is looked at again, some of whose jobs are at work past their deadline."""


async def end_overdue(store: Store) -> set[str]:
    """Record jobs past their deadline as failed; returns the ids of their runs.

    Raises:
        StoreUnavailable: the store does not answer.
    """
    runs: set[str] = set()
    while outcomes := await store.overdue_blocks(now=time.time() - GRACE, limit=_LIMIT):
        for outcome in outcomes:
            now = time.time()
            block = await store.get_block(outcome.block)
            if block is None:
                await store.set_deadlines({outcome.block: 0.0})
                continue
            batch = await jobs_of(store, block)
            deadlines = {job.index: deadline for job in batch.jobs if (deadline := deadline_of(job, batch))}
            over = bitmap.from_indices(index for index, deadline in deadlines.items() if deadline < now - GRACE)
            waiting = over & outcome.unfinished & ~outcome.running
            if waiting:
                why = "it was not started before its deadline"
                failed = failed_candidate(outcome, waiting, kind="DeadlinePassed", message=why, reason="deadline")
                await store.record([failed])
                await store.release_jobs({outcome.block: waiting})
                runs.add(outcome.run)
            later = [deadline for index, deadline in deadlines.items() if not over >> index & 1]
            if over & outcome.unfinished & outcome.running:
                later.append(now + _LOOK_AGAIN)
            await store.set_deadlines({outcome.block: min(later, default=0.0)})
    return runs
