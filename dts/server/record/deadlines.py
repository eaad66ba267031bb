"""When the jobs of a stored block must have been started."""

from __future__ import annotations

from dts.wire import dts_pb2


def deadline_of(job: dts_pb2.Job, batch: dts_pb2.JobBatch) -> float:
    """The time after which a job is not started; 0 for none."""
    own: float = job.options.deadline if job.HasField("options") else 0.0
    return own or batch.options.deadline


def earliest_deadline(batch: dts_pb2.JobBatch) -> float:
    """The earliest deadline among a batch's jobs; 0 for none."""
    return min((time for job in batch.jobs if (time := deadline_of(job, batch))), default=0.0)
