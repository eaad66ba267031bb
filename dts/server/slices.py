"""How a block becomes messages: slices of about equal work, small enough to spread and large enough to cost little."""

from __future__ import annotations

from collections.abc import Iterator

from dts.broker import Message
from dts.model import Block, Function
from dts.wire import codec, dts_pb2

UNKNOWN_SLICE = 64
"""Jobs in a message of a function whose speed is not known yet."""

CONCURRENT_SLICE = 100
"""Jobs in a message of a function that runs many at a time, at least: they take as long together as one of them."""

MAX_MESSAGE = 1024 * 1024
"""Bytes that a message should have at most, uncompressed; a single larger job is a message of its own."""


def slice_size(function: Function | None, *, seconds: float, max_slice: int) -> int:
    """Jobs in a message of a function, for about `seconds` of work each: between 1 and `max_slice`."""
    if function is None or function.mean_duration is None:
        return min(UNKNOWN_SLICE, max_slice)
    size = int(seconds / max(function.mean_duration, 1e-9))
    if function.concurrent:
        size = max(size, CONCURRENT_SLICE)
    return max(1, min(size, max_slice))


def slice_block(block: Block, batch: dts_pb2.JobBatch, size: int) -> Iterator[Message]:
    """The messages of a block, with at most `size` jobs each."""
    mean_bytes = max(1, batch.ByteSize() // block.count)
    size = max(1, min(size, MAX_MESSAGE // mean_bytes))
    for first in range(0, block.count, size):
        jobs = batch.jobs[first : first + size]
        body, content_encoding = codec.encode(
            dts_pb2.JobBatch(block=block.id, run=block.run, function=block.function, jobs=jobs)
        )
        yield Message(
            body,
            content_encoding,
            {
                "block": block.id,
                "run": block.run,
                "function": block.function,
                "first": first,
                "count": len(jobs),
            },
        )


def decode_block(block: Block) -> dts_pb2.JobBatch:
    """The jobs of a stored block.

    Raises:
        WireError: the store's copy is damaged.
    """
    return codec.decode(dts_pb2.JobBatch, block.body, block.content_encoding)
