"""Figures about jobs, from what is recorded: counted by block, never by looking at a job by itself."""

from __future__ import annotations

import time
from collections.abc import Sequence

from prometheus_client import Counter, Gauge

from dts.model import Candidate
from dts.runtime.metrics import JOB_SECONDS, STORE_CALLS, BulkHistogram, time_calls
from dts.store import Store
from dts.wire import dts_pb2

_JOBS = Counter("dts_jobs", "Jobs that have ended, as recorded by this process.", ["namespace", "function", "state"])
_MEMO = Counter("dts_memo", "Jobs that got the result of an earlier one and were not run.", ["namespace", "function"])
_DURATIONS = BulkHistogram("dts_job_duration_seconds", "How long attempts ran.", ["namespace", "function"], JOB_SECONDS)
_WAITS = BulkHistogram(
    "dts_job_wait_seconds",
    "From a message's publishing to its start.",
    ["namespace", "function"],
    JOB_SECONDS,
)
_ATTEMPTS = Counter("dts_attempts", "Attempts that another one follows, by why they failed.", ["reason"])
_LAG = Gauge("dts_porter_lag_seconds", "Age of the last results that porter has recorded, when it did.")
_DEAD = Counter("dts_dead_letters", "Messages that became dead letters.", ["reason"])

_REASONS = frozenset({"timeout", "memory", "deadline", "crashed", "killed", "exit", "lost", "left"})
"""Why DTS ended attempts, as far as these are told apart; else a function has raised an exception."""


def observe_store(store: Store) -> None:
    """Measure the calls of a store, and count the jobs that end by them, from here on."""

    async def counted(candidates: Sequence[Candidate], *, finish: bool = True) -> list[int | None]:
        accepted = await type(store).record(store, candidates, finish=finish)
        _count_ended(candidates, accepted)
        return accepted

    store.record = counted  # type: ignore[method-assign]
    time_calls(store, "store", STORE_CALLS)


def _count_ended(candidates: Sequence[Candidate], accepted: Sequence[int | None]) -> None:
    for candidate, ended in zip(candidates, accepted, strict=True):
        if not ended:
            continue
        good = candidate.succeeded & ended
        bad = candidate.failed & ended & ~good
        for state, jobs in (("succeeded", good), ("failed", bad), ("cancelled", ended & ~good & ~bad)):
            if jobs:
                _JOBS.labels(*_labels(candidate.function), state).inc(jobs.bit_count())


def observe_results(batch: dts_pb2.ResultBatch, queued: float | None, *, retried: bool) -> None:
    """Count a message of results that was recorded. Its jobs were `queued` then; with `retried` some run again."""
    if not batch.results:
        return
    labels = _labels(batch.function)
    _DURATIONS.observe(labels, [result.duration for result in batch.results])
    if queued is not None:
        _WAITS.observe(labels, [max(0.0, batch.started - queued)])
    last = batch.results[-1]
    _LAG.set(max(0.0, time.time() - batch.started - last.offset - last.duration))
    for result in batch.results if retried else ():
        if result.status == dts_pb2.RETRY:
            reason = result.error.reason
            _ATTEMPTS.labels(reason if reason in _REASONS else "exception").inc()


def count_memo(function: str, jobs: int) -> None:
    """Count jobs that got the results of earlier ones."""
    _MEMO.labels(*_labels(function)).inc(jobs)


def count_dead_letter(reason: str) -> None:
    """Count a dead letter by the kind of its reason."""
    known = reason if reason in ("delivery_limit", "rejected") else reason.partition(":")[0]
    _DEAD.labels(known if known in ("delivery_limit", "rejected", "refused") else "unreadable").inc()


def _labels(function: str) -> tuple[str, str]:
    namespace, _, name = function.partition("/")
    return namespace, name
