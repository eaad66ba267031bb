"""Isolates the jobs of a message that whole workers may have died of: each gets a message of its own."""

from __future__ import annotations

from dts.broker import Message
from dts.errors import DtsError
from dts.wire import codec
from dts.wire.dts_pb2 import JobBatch
from dts.worker.link.batches import slice_batch
from dts.worker.queues.in_flight import InFlight

SUSPICIOUS = 3
"""Times that a message was handed out before and came back, after which its jobs are run one by one."""


def isolate(held: InFlight) -> list[Message]:
    """A message for each job of a delivery that came back too often; none for one that is to run as it is."""
    message = held.delivery.message
    if held.delivery.count < SUSPICIOUS or message.headers.get("count") == 1:
        return []
    try:
        batch = codec.decode(JobBatch, message.body, message.content_encoding)
    except DtsError:
        return []  # the child finds that out, too
    if len(batch.jobs) < 2:
        return []
    return [
        Message(*codec.encode(slice_batch(batch, [position])), held.headers_of_part(1))
        for position in range(len(batch.jobs))
    ]
