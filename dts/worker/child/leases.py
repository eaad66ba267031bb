"""Long jobs: their worker claims them under a lease, acks their message, and extends the lease while it lives.

So they may take longer than the broker lets a consumer keep a message. When the lease expires, the jobs are queued
again with a higher fence, and results that carry the old one are void.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

from dts.wire.dts_pb2 import Claim
from dts.worker.child.active_batch import ActiveBatch
from dts.worker.child.outbox import Outbox
from dts.worker.link.board import PENDING, STARTED


class Leases:
    """The leases of one message; each holds for `seconds` from when it is recorded: this host's clock may be wrong."""

    def __init__(self, batch: ActiveBatch, outbox: Outbox, seconds: float) -> None:
        self.needed = batch.batch.lease
        self._batch, self._outbox, self._seconds = batch, outbox, seconds
        self._claimed = time.monotonic()

    def take(self) -> None:
        """Claim all jobs that have not ended."""
        self._claimed = time.monotonic()
        self._outbox.claim(self._claims())

    def look(self, now: float) -> None:
        """Helper thread: extend the claims in good time."""
        if now - self._claimed >= self._seconds / 3:
            self.take()

    def _claims(self) -> Iterator[Claim]:
        for position, job in enumerate(self._batch.jobs):
            if self._batch.states[position] in (PENDING, STARTED):
                yield Claim(index=job.index, fence=job.fence, seconds=self._seconds)
