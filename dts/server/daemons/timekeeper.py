"""Timekeeper: keeps promises that others were kept from keeping.

- relay: publishes blocks that are in the store and were not published (an outbox).
- sweep: ends the jobs of cancelled runs that their server did not get to.
- bury: records the jobs of dead-lettered messages as failed, so that no job vanishes, and keeps the letters.
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Mapping
from functools import partial

from dts.broker import Consumer, Delivery
from dts.errors import TooLarge, WireError
from dts.model import Candidate, DeadLetter, bitmap
from dts.server.cancel import cancel_jobs_of_run
from dts.server.catalogue import Catalogue
from dts.server.daemons._base import Daemon
from dts.server.publisher import Publisher
from dts.server.results import failed_candidate
from dts.server.slices import decode_block
from dts.wire import codec, dts_pb2
from dts.wire.queues import DEAD, JOBS_PREFIX, TOPIC_CANCELLED, TOPIC_RESULTS

logger = logging.getLogger(__name__)

_RELAY_LIMIT = 20
_RELAY_LEASE = 60.0
"""Seconds in which a claimed block is published, or given to the next who asks."""

_SWEEP_INTERVAL = 5.0
_SWEEP_AGE = 24 * 3600.0
"""Runs that are older than this, in seconds, were swept long ago."""


class Timekeeper(Daemon):
    """Relays, sweeps and buries."""

    async def _start(self) -> None:
        self._catalogue = Catalogue(self._store)
        self._publisher = Publisher(self._store, self._broker, self._settings.server)
        self._swept: set[str] = set()
        self._spawn(self._every(self._settings.daemons.relay_interval, self._relay, "relay blocks"), "timekeeper-relay")
        self._spawn(self._every(_SWEEP_INTERVAL, self._sweep, "sweep cancelled runs"), "timekeeper-sweep")
        consumer = await self._broker.consume(DEAD, prefetch=_RELAY_LIMIT)
        self._stack.push_async_callback(consumer.close)
        self._spawn(self._bury_all(consumer), "timekeeper-bury")

    async def _relay(self) -> None:
        """Publish what was accepted and is not published, oldest first, until there is no more."""
        while blocks := await self._store.claim_unpublished(
            older_than=time.time() - self._settings.daemons.relay_after, limit=_RELAY_LIMIT, lease=_RELAY_LEASE
        ):
            logger.info("relaying %d blocks that were accepted but not published", len(blocks))
            for block in blocks:
                function = await self._catalogue.get(block.function)
                await self._publisher.publish(block, decode_block(block), function)

    async def _sweep(self) -> None:
        cancelled = set(await self._store.cancelled_runs(time.time() - _SWEEP_AGE))
        self._swept &= cancelled
        if cancelled:
            await self._broker.broadcast(TOPIC_CANCELLED, " ".join(sorted(cancelled)[-100:]))
        for run_id in cancelled - self._swept:
            if count := await cancel_jobs_of_run(self._store, run_id):
                logger.info("ended %d jobs of the cancelled run %s", count, run_id)
                await self._broker.broadcast(TOPIC_RESULTS, run_id)
            else:
                self._swept.add(run_id)

    async def _bury_all(self, consumer: Consumer) -> None:
        while deliveries := await consumer.receive(_RELAY_LIMIT):
            for delivery in deliveries:
                await self._insist(partial(self._bury, delivery), "record dead letters")
            await consumer.ack(deliveries)

    async def _bury(self, delivery: Delivery) -> None:
        message = delivery.message
        queue = str(message.headers.get("x-dts-queue", ""))
        reason = str(message.headers.get("x-dts-reason", "")) or "handed out too often without being finished"
        digest = hashlib.blake2b(f"{queue}\0{reason}\0".encode() + message.body, digest_size=16).hexdigest()
        letter = DeadLetter(
            digest, queue, reason, message.body, message.content_encoding, dict(message.headers), time.time()
        )
        await self._store.add_dead_letters([letter])
        logger.error("dead letter from %s: %s", queue or "an unknown queue", reason)
        block_id = str(message.headers.get("block", ""))
        outcome = await self._store.get_outcome(block_id) if queue.startswith(JOBS_PREFIX) else None
        if outcome is not None:
            jobs = _jobs_of(message.body, message.content_encoding, message.headers) & outcome.unfinished
            await self._record_failed(
                failed_candidate(outcome, jobs, kind="DeadLetter", message=reason, reason="dead_letter"), outcome.run
            )

    async def _record_failed(self, candidate: Candidate, run_id: str) -> None:
        if candidate.ended:
            await self._store.record([candidate])
            await self._broker.broadcast(TOPIC_RESULTS, run_id)


def _jobs_of(body: bytes, content_encoding: str, headers: Mapping[str, str | int]) -> int:
    """The bitmap of the jobs in a dead message; when its body is damaged, what its headers say."""
    try:
        batch = codec.decode(dts_pb2.JobBatch, body, content_encoding)
    except (WireError, TooLarge):
        first, count = headers.get("first", 0), headers.get("count", 0)
        if isinstance(first, int) and isinstance(count, int) and first >= 0 and 0 <= count <= 256:
            return bitmap.full(count) << first
        return 0
    return bitmap.from_indices(job.index for job in batch.jobs)
