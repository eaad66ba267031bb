"""How a block becomes messages: slices of about equal work, small enough to spread and large enough to cost little."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from dts.broker import Message
from dts.config import ServerSettings
from dts.model import DEFAULT_ROUTE, MAX_BLOCK_SIZE, Block, DelayedSlice, Function, bitmap
from dts.model.secrets import HEADER
from dts.server.intake.options import is_long, merged_options
from dts.wire import codec, dts_pb2
from dts.wire.queues import jobs_queue

UNKNOWN_SLICE = 256
"""Jobs in a message of a function whose speed is not known yet. A worker that finds it slow gives most of them back
within a tenth of a second; small messages would cost every fast function dearly until its first results are in."""

CONCURRENT_SLICE = 100
"""Jobs in a message of a function that runs many at a time, at least: they take as long together as one of them."""

MAX_MESSAGE = 1024 * 1024
"""Bytes that a message should have at most, uncompressed; a single larger job is a message of its own."""


@dataclass(frozen=True, slots=True)
class Post:
    """Messages, and the queue that they go to."""

    queue: str
    messages: list[Message]


def block_messages(
    block: Block,
    batch: dts_pb2.JobBatch,
    function: Function | None,
    settings: ServerSettings,
    *,
    jobs: int | None = None,
) -> Post:
    """The messages of a block, of all its jobs or those in the bitmap `jobs`.

    `batch` has its jobs, `function` tells route, speed and how attempts are run.
    """
    chosen = batch.jobs if jobs is None else [job for job in batch.jobs if jobs >> job.index & 1]
    return _post(block, batch, chosen, function, settings)


def delayed_messages(
    block: Block,
    batch: dts_pb2.JobBatch,
    waiting: DelayedSlice,
    function: Function | None,
    settings: ServerSettings,
    *,
    jobs: int | None = None,
    most: int = MAX_BLOCK_SIZE,
) -> Post:
    """The messages, of `most` jobs at most, of jobs that have waited, for their next attempt: of all, or of `jobs`.

    Jobs that `batch` has not, since the block is damaged, are passed over.
    """
    indices = bitmap.indices(waiting.jobs if jobs is None else jobs)
    chosen = [batch.jobs[index] for index in indices if index < len(batch.jobs)]
    return _post(block, batch, [_next_attempt(job, waiting) for job in chosen], function, settings, most=most)


def single_messages(
    block: Block,
    batch: dts_pb2.JobBatch,
    jobs: Iterable[dts_pb2.Job],
    function: Function | None,
    settings: ServerSettings,
) -> Post:
    """A message for each of some jobs of a block, as they are."""
    options, lease = _terms(batch, function, settings)
    return _with_secrets(
        Post(_queue(function), [_message(block, [job], options, lease=lease) for job in jobs]), function
    )


def slice_size(function: Function | None, *, seconds: float, max_slice: int) -> int:
    """Jobs in a message of a function, for about `seconds` of work each: between 1 and `max_slice`."""
    if function is None or function.mean_duration is None:
        return min(UNKNOWN_SLICE, max_slice)
    size = int(seconds / max(function.mean_duration, 1e-9))
    if function.concurrent:
        size = max(size, CONCURRENT_SLICE)
    size = max(size, function.batch or 1)  # they are one call of main_many, however long that takes
    return max(1, min(size, max_slice))


def _post(
    block: Block,
    batch: dts_pb2.JobBatch,
    jobs: Sequence[dts_pb2.Job],
    function: Function | None,
    settings: ServerSettings,
    *,
    most: int = MAX_BLOCK_SIZE,
) -> Post:
    options, lease = _terms(batch, function, settings)
    # A worker that holds jobs under leases has them all for itself: it gets one at a time.
    size = 1 if lease else slice_size(function, seconds=settings.slice_seconds, max_slice=settings.max_slice)
    mean_bytes = max(1, batch.ByteSize() // block.count)
    size = max(1, min(size, most, MAX_MESSAGE // mean_bytes))
    return _with_secrets(Post(_queue(function), list(_slices(block, jobs, size, options, lease=lease))), function)


def _with_secrets(post: Post, function: Function | None) -> Post:
    """The messages with the secrets of their function's namespace, encrypted for workers."""
    if function is None or not function.secrets:
        return post
    with_them = [replace(message, headers={**message.headers, HEADER: function.secrets}) for message in post.messages]
    return Post(post.queue, with_them)


def _terms(
    batch: dts_pb2.JobBatch, function: Function | None, settings: ServerSettings
) -> tuple[dts_pb2.Options, bool]:
    """What the messages of a block say of its attempts, and whether these need a lease."""
    options = merged_options(function, batch.options, settings.default_timeout)
    lease = batch.lease or is_long(
        options, function, lease_after=settings.lease_after, lease_unlimited=settings.lease_unlimited
    )
    return options, lease


def _slices(
    block: Block, jobs: Sequence[dts_pb2.Job], size: int, options: dts_pb2.Options, *, lease: bool
) -> Iterator[Message]:
    for first in range(0, len(jobs), size):
        yield _message(block, jobs[first : first + size], options, lease=lease)


def _message(block: Block, jobs: Sequence[dts_pb2.Job], options: dts_pb2.Options, *, lease: bool) -> Message:
    batch = dts_pb2.JobBatch(
        block=block.id, run=block.run, function=block.function, jobs=jobs, options=options, lease=lease
    )
    if lease:
        for job in batch.jobs:
            job.fence = max(job.fence, 1)
    first, last = jobs[0].index, jobs[-1].index
    headers: dict[str, str | int] = {
        "block": block.id,
        "run": block.run,
        "function": block.function,
        "number": block.first,
        "count": len(jobs),
        "queued": int(time.time() * 1000),
    }
    if last - first + 1 == len(jobs):
        headers["first"] = first
    if options.version:
        headers["version"] = options.version
    return Message(*codec.encode(batch), headers)


def _next_attempt(job: dts_pb2.Job, waiting: DelayedSlice) -> dts_pb2.Job:
    again = dts_pb2.Job()
    again.CopyFrom(job)
    again.attempt = waiting.attempt
    again.kills = waiting.kills.get(job.index, 0)
    again.fence = waiting.fences.get(job.index, 0)
    return again


def _queue(function: Function | None) -> str:
    return jobs_queue(function.route if function is not None else DEFAULT_ROUTE)
