"""Describes a job that has not ended: the state that it is in, and what is known beyond that."""

from __future__ import annotations

from dts.model import DelayedSlice, JobState
from dts.server.lookup.hub import Hub, ProgressReport
from dts.server.record.results import result_fields
from dts.store.contract.results import BlockRecord
from dts.wire import codec, dts_pb2

RUNNING = "limits.running"
"""What a job waits for that may run, once others have ended."""

_OF_ERRORS = ("error", "duration", "worker", "version", "started")


def waiting_fields(hub: Hub, record: BlockRecord, index: int) -> dict[str, object]:
    """The state of a job that has not ended, and what goes with it."""
    block = record.block
    for each in record.slices:
        if each.jobs >> index & 1:
            waits: dict[str, object] = {"waits_for": RUNNING} if each.gated else {"due": round(each.due, 6)}
            return {"state": JobState.DELAYED.value, **waits, **_last_attempt(each, index)}
    held = any(lease.job == index and lease.expires is not None and not lease.lost for lease in record.leases)
    if held or record.outcome.running >> index & 1:
        return {"state": JobState.RUNNING.value, **_reported_fields(hub.progress_of(block.id, index))}
    if not block.published and block.not_before:
        return {"state": JobState.DELAYED.value, "due": round(block.not_before, 6)}
    is_sent = block.published or index < block.sent
    return {"state": (JobState.QUEUED if is_sent else JobState.ACCEPTED).value}


def _reported_fields(told: ProgressReport | None) -> dict[str, object]:
    """What a running job has said of itself."""
    fields: dict[str, object] = {}
    if told is not None and (told.done or told.total):
        fields["progress"] = {"done": told.done, "total": told.total}
    if told is not None and memoryview(told.partials):
        fields["partials"] = told.partials
    return fields


def _last_attempt(each: DelayedSlice, index: int) -> dict[str, object]:
    """The number of the attempt to come, and how the last one failed."""
    fields: dict[str, object] = {"attempt": each.attempt}
    if each.body:
        batch = codec.decode(dts_pb2.ResultBatch, each.body, each.content_encoding)
        for result in batch.results:
            if result.index == index:
                about = result_fields(batch, result)
                fields |= {name: about[name] for name in _OF_ERRORS}
    return fields
