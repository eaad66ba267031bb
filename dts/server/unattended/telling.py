"""`on_success`, `on_failure`, `on_end`: functions that are called with the summary of a run that has finished."""

from __future__ import annotations

from typing import Any

import msgspec

from dts.model import Run, RunState, Statistics, block_id, derived_id, job_id
from dts.server.intake.following import Following, run_ids
from dts.server.intake.ingest import Arguments
from dts.server.record.results import part_results, result_fields
from dts.server.unattended.passing import next_run
from dts.server.unattended.progress import Progress
from dts.server.unattended.submit import Refused, Submitter
from dts.store import Store


class Telling:
    """Calls functions with what became of a run."""

    def __init__(self, store: Store, submitter: Submitter) -> None:
        self._store = store
        self._submitter = submitter

    async def tell(self, run: Run, wants: Following, progress: Progress) -> None:
        """Make a run with one job of each function that is to hear of the end of a run. Safe to repeat.

        Raises:
            OverLimit: a limit does not let one in now.
            StoreUnavailable: some may be there; the same again does the rest.
        """
        if not (wants.on_success or wants.on_failure or wants.on_end):
            return
        statistics = await self._store.run_statistics(run.id)
        summary = await self._summary(run, wants, statistics)
        succeeded = run.state is not RunState.CANCELLED and statistics.succeeded == statistics.total
        due = {
            "on_success": wants.on_success if succeeded else "",
            "on_failure": "" if succeeded else wants.on_failure,
            "on_end": wants.on_end,
        }
        for when, function in due.items():
            if function and when not in progress.calls:
                call = next_run(run, derived_id(run.id, f"/{when}"), function, now=self._store.now())
                await self._call(call, summary, progress, when)

    async def _call(self, call: Run, summary: dict[str, Any], progress: Progress, when: str) -> None:
        try:
            await self._submitter.submit(call, [Arguments(msgspec.json.encode([summary]), b"")])
            progress.calls[when] = call.id
        except Refused as error:
            progress.calls[when] = ""
            progress.fail(f"{when}: {call.function} is not called: {error}")

    async def _summary(self, run: Run, wants: Following, statistics: Statistics) -> dict[str, Any]:
        """What a function is told of a run; of one with a single job, also how that ended."""
        counts = {name: getattr(statistics, name) for name in ("total", "succeeded", "failed", "cancelled")}
        summary: dict[str, Any] = {
            "run": run.id,
            "function": run.function,
            "user": run.user,
            "created": round(run.created, 6),
            "state": run.state.value,
            "success": counts["total"] == counts["succeeded"] and run.state is not RunState.CANCELLED,
            **counts,
            **run_ids(run.id, wants),
        }
        if statistics.total == 1:
            summary["job"] = await self._only_job(run)
        return summary

    async def _only_job(self, run: Run) -> dict[str, Any]:
        for part in await self._store.get_parts(block_id(run.id, 0)):
            for batch, result in part_results(part):
                return {"id": job_id(run.id, result.index), **result_fields(batch, result)}
        return {"id": job_id(run.id, 0)}
