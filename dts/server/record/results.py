"""ResultBatches as the server's side reads and writes them."""

from __future__ import annotations

import time
from collections.abc import Iterator

import msgspec

from dts.model import Candidate, Outcome, Part, bitmap
from dts.wire import codec, dts_pb2

STATES = {dts_pb2.SUCCEEDED: "succeeded", dts_pb2.FAILED: "failed", dts_pb2.CANCELLED: "cancelled"}


def cancelled_candidate(outcome: Outcome, jobs: int, *, partials: bytes = b"", version: str = "") -> Candidate:
    """A candidate that ends the jobs in the bitmap `jobs` as cancelled.

    Of a single one, the values that it has told to have yielded, a JSON array, and its function's version, go with it.
    """
    error = dts_pb2.Error(type="Cancelled", message="the job was cancelled", reason="cancelled")
    return _ended_by_server(outcome, jobs, dts_pb2.CANCELLED, error, partials=partials, version=version)


def failed_candidate(outcome: Outcome, jobs: int, *, kind: str, message: str, reason: str) -> Candidate:
    """A candidate that ends the jobs in the bitmap `jobs` as failed, for a reason of the system's."""
    return _ended_by_server(outcome, jobs, dts_pb2.FAILED, dts_pb2.Error(type=kind, message=message, reason=reason))


def _ended_by_server(
    outcome: Outcome,
    jobs: int,
    status: dts_pb2.Status,
    error: dts_pb2.Error,
    *,
    partials: bytes = b"",
    version: str = "",
) -> Candidate:
    batch = dts_pb2.ResultBatch(
        block=outcome.block, run=outcome.run, function=outcome.function, worker="server", started=time.time()
    )
    batch.version = version
    for index in bitmap.indices(jobs):
        batch.results.add(index=index, status=status, error=error, partials=partials)
    body, content_encoding = codec.encode(batch)
    cancelled = status == dts_pb2.CANCELLED
    return Candidate(
        outcome.block,
        body,
        content_encoding,
        failed=0 if cancelled else jobs,
        cancelled=jobs if cancelled else 0,
        function=outcome.function,
    )


def part_results(part: Part) -> Iterator[tuple[dts_pb2.ResultBatch, dts_pb2.Result]]:
    """The results that are this part's, with the batch that they came in."""
    batch = codec.decode(dts_pb2.ResultBatch, part.body, part.content_encoding)
    for result in batch.results:
        if part.jobs >> result.index & 1:
            yield batch, result


def result_fields(batch: dts_pb2.ResultBatch, result: dts_pb2.Result) -> dict[str, object]:
    """What a reader of JSON is told of a result; `result` is the worker's own JSON, passed through."""
    fields: dict[str, object] = {"success": result.status == dts_pb2.SUCCEEDED}
    if fields["success"]:
        fields["result"] = msgspec.Raw(result.value or b"null")
    else:
        error = {"type": result.error.type, "message": result.error.message, "traceback": result.error.traceback}
        if result.error.reason:
            error["reason"] = result.error.reason
        fields["error"] = error
    fields["duration"] = round(result.duration, 6)
    fields["attempt"] = result.attempt or 1
    fields["worker"] = batch.worker
    fields["version"] = batch.version
    if batch.memo:
        fields["memo"] = True
    if result.partials:
        fields["partials"] = msgspec.Raw(result.partials)
    fields["started"] = round(batch.started + result.offset, 6)
    return fields
