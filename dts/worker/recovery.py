"""What becomes of the jobs of a child that died. The one place in the worker's own process that decodes jobs.

The job that the child was at is the culprit, and has failed. When several may be it, each runs again alone. When none
may be, the child died of the message itself, such as an import that takes
all memory; that is tried again a few times. All others that have no result yet run again, together.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from dts.errors import DtsError
from dts.wire import codec
from dts.wire.dts_pb2 import FAILED, Error, Job, JobBatch, ResultBatch
from dts.worker.board import Phase
from dts.worker.executor import Crash
from dts.worker.process import Assignment

MAX_DEATHS = 3
"""Children that may die of one message without being at a job."""
REASON = "crashed"
"""The code in the error of a job whose process died."""

_WHILE = {
    Phase.LOADING: "while it imported the function's module",
    Phase.RUNNING: "between two jobs",
}


@dataclass(slots=True)
class Recovery:
    """What to do: a part to publish with `failed` jobs in it, assignments to run, or a reason for the dead letter."""

    part: codec.Encoded | None = None
    failed: int = 0
    again: list[Assignment] = field(default_factory=list)
    dead: str = ""


def recover(assignment: Assignment, crash: Crash, worker: str) -> Recovery:
    """Decide what becomes of the jobs of an assignment whose child died."""
    try:
        batch = codec.decode(JobBatch, assignment.body, assignment.content_encoding)
    except DtsError as error:
        return Recovery(dead=error.message)
    jobs = batch.jobs
    unsent = [position for position in crash.unsent if position < len(jobs)]
    deaths = assignment.deaths + (not crash.suspects)
    if not crash.suspects and deaths >= MAX_DEATHS:
        if crash.phase not in _WHILE:
            return Recovery(dead=f"{deaths} processes died when they began with it; the last one {crash.said}")
        said = f"the process of the job {crash.said} {_WHILE[crash.phase]}"
        return _with_failed(batch, [jobs[position] for position in unsent], said, worker)
    if len(crash.suspects) == 1:
        culprit = crash.suspects[0]
        unsent.remove(culprit)
        recovery = _with_failed(batch, [jobs[culprit]], f"the process of the job {crash.said}", worker)
        suspects = []
    else:
        recovery, suspects = Recovery(), crash.suspects
    groups = [[position] for position in suspects]
    groups.append([position for position in unsent if position not in suspects])
    for group in filter(None, groups):
        body, encoding = codec.encode(_batch_of(batch, [jobs[position] for position in group]))
        recovery.again.append(Assignment(body, encoding, assignment.owner, deaths=deaths))
    return recovery


def _with_failed(batch: JobBatch, jobs: Sequence[Job], said: str, worker: str) -> Recovery:
    part = ResultBatch(block=batch.block, run=batch.run, function=batch.function, worker=worker, started=time.time())
    error = Error(type="ProcessDied", message=said, reason=REASON)
    for job in jobs:
        part.results.add(index=job.index, status=FAILED, error=error, attempt=job.attempt)
    return Recovery(codec.encode(part) if jobs else None, len(jobs))


def _batch_of(batch: JobBatch, jobs: Sequence[Job]) -> JobBatch:
    return JobBatch(block=batch.block, run=batch.run, function=batch.function, jobs=jobs)
