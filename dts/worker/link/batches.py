"""Parts of encoded batches of jobs."""

from __future__ import annotations

from collections.abc import Sequence

from dts.wire.dts_pb2 import JobBatch


def slice_batch(batch: JobBatch, positions: Sequence[int]) -> JobBatch:
    """A batch with only the jobs at some positions of another one."""
    part = JobBatch(block=batch.block, run=batch.run, function=batch.function, lease=batch.lease)
    if batch.HasField("options"):
        part.options.CopyFrom(batch.options)
    part.jobs.extend([batch.jobs[position] for position in positions])
    return part
