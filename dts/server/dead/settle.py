"""What becomes of the jobs of dead letters: another chance each for themselves, or an end as failed.

A message that was handed out too often takes a worker away with it each time. Which of its jobs does that nobody
knows, so each of them gets a message of its own; the one that dies again has done it.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping

from dts.broker import Broker, Delivery, Message, origin, revived
from dts.broker.abc import REASON_DELIVERY_LIMIT, REASON_EXPIRED, REASON_OVERFLOW
from dts.config import ServerSettings
from dts.errors import TooLarge, WireError
from dts.model import MAX_BLOCK_SIZE, DeadLetter, Outcome, bitmap
from dts.runtime.log_throttle import LogThrottle
from dts.server.lookup.catalogue import Catalogue
from dts.server.publish.slices import single_messages
from dts.server.record.blocks import jobs_of
from dts.server.record.digests import digest_of
from dts.server.record.faults import CONTENT_FAULTS
from dts.server.record.job_metrics import count_dead_letter
from dts.server.record.results import failed_candidate
from dts.store import Store
from dts.wire import codec, dts_pb2
from dts.wire.queues import JOBS_PREFIX, TOPIC_RESULTS

logger = logging.getLogger(__name__)

_BY_POLICY = frozenset({REASON_EXPIRED, REASON_OVERFLOW})
"""Why a broker drops messages that nobody has handled: its operator has told it to."""

HEADER_REFUSED = "x-dts-refused"
"""Header of a kept dead letter that had no valid seal: it cannot be replayed, since that would seal it."""


class DeadLetterSettler:
    """Settles dead letters. Safe to repeat for the same one."""

    def __init__(self, store: Store, broker: Broker, catalogue: Catalogue, settings: ServerSettings) -> None:
        self._store = store
        self._broker = broker
        self._catalogue = catalogue
        self._settings = settings
        self._dropped = LogThrottle(60.0)

    async def settle(self, delivery: Delivery) -> None:
        """Give the jobs of a dead letter another chance, or keep the letter and end them.

        One that is not sealed by the fleet is kept, and its jobs are left alone: anybody may have published it.
        Whatever is in it, those behind it do not wait: a letter that cannot be kept for what is in it is told in the
        log, and gone.

        Raises:
            StoreUnavailable: try again later.
            BrokerUnavailable: likewise.
            Exception: what is none of CONTENT_FAULTS. The letter may not be kept: it must not be acked.
        """
        message = delivery.message
        came = origin(message)
        queue = came.queue if came else ""
        if delivery.refused:
            await self._keep(_letter(message, queue, f"refused: {delivery.refused}", {HEADER_REFUSED: 1}))
            return
        reason = (came.reason if came else "") or REASON_DELIVERY_LIMIT
        block_id = str(message.headers.get("block", ""))
        outcome = await self._store.get_outcome(block_id) if queue.startswith(JOBS_PREFIX) else None
        batch = _decode(delivery)
        if outcome is not None and batch is not None and reason == REASON_DELIVERY_LIMIT and len(batch.jobs) > 1:
            try:
                await self._publish_singly(outcome, batch)
            except CONTENT_FAULTS:
                logger.exception("the jobs of a dead letter of %s cannot go on singly, they fail", outcome.function)
            else:
                return
        if outcome is not None and outcome.unfinished and reason in _BY_POLICY:
            await self._publish_again(queue, message, reason)
            return
        await self._keep(_letter(message, queue, reason, {}))
        if outcome is not None:
            jobs = _indices(batch, message.headers) & outcome.unfinished
            await self._end(outcome, jobs, reason)

    async def _keep(self, letter: DeadLetter) -> None:
        where = letter.queue or "an unknown queue"
        count_dead_letter(letter.reason)
        try:
            await self._store.add_dead_letters([letter])
        except CONTENT_FAULTS:
            logger.exception("a dead letter of %d bytes from %s cannot be kept", len(letter.body), where)
        else:
            logger.error("dead letter from %s: %s", where, letter.reason)

    async def _publish_again(self, queue: str, message: Message, reason: str) -> None:
        """Put a message back that the broker has dropped before a worker took it: its jobs are as good as before."""
        if self._dropped.is_due():
            logger.error(
                "RabbitMQ drops messages of %s (%s), and DTS publishes them again: take message-ttl, max-length and "
                "expires out of the policies for queues named dts.*: rabbitmqctl list_policies",
                queue,
                reason,
            )
        await self._broker.publish(queue, [revived(message)])

    async def _publish_singly(self, outcome: Outcome, batch: dts_pb2.JobBatch) -> None:
        block = await self._store.get_block(outcome.block)
        if block is None:
            return
        jobs = [job for job in batch.jobs if outcome.unfinished >> job.index & 1]
        for job in jobs:
            job.kills = min(job.kills + 1, 2**32 - 1)
        if jobs:
            logger.error(
                "a message of %s was handed out too often: its %d jobs go on singly", outcome.function, len(jobs)
            )
            function = await self._catalogue.get(outcome.function)
            post = single_messages(block, await jobs_of(self._store, block), jobs, function, self._settings)
            await self._broker.publish(post.queue, post.messages)

    async def _end(self, outcome: Outcome, jobs: int, reason: str) -> None:
        if not jobs:
            return
        if reason == REASON_DELIVERY_LIMIT:
            why = "every worker that took it went away before it had finished: it was handed out too often"
            failed = failed_candidate(outcome, jobs, kind="Poison", message=why, reason="poison")
        else:
            failed = failed_candidate(outcome, jobs, kind="DeadLetter", message=reason, reason="dead_letter")
        await self._store.record([failed])
        await self._store.release_jobs({outcome.block: jobs})
        await self._broker.broadcast(TOPIC_RESULTS, outcome.run)


def _letter(message: Message, queue: str, reason: str, marks: dict[str, str | int]) -> DeadLetter:
    return DeadLetter(
        digest_of(f"{queue}\0{reason}\0".encode(errors="replace") + message.body).hex(),
        queue,
        reason,
        message.body,
        message.content_encoding,
        {**message.headers, **marks},
        time.time(),
    )


def _decode(delivery: Delivery) -> dts_pb2.JobBatch | None:
    try:
        return codec.decode(dts_pb2.JobBatch, delivery.message.body, delivery.message.content_encoding)
    except (WireError, TooLarge):
        return None


def _indices(batch: dts_pb2.JobBatch | None, headers: Mapping[str, str | int]) -> int:
    """The bitmap of the jobs in a dead message; when its body is damaged, what its headers say."""
    if batch is not None:
        return bitmap.from_indices(job.index for job in batch.jobs if job.index < MAX_BLOCK_SIZE)
    first, count = headers.get("first", 0), headers.get("count", 0)
    if "first" in headers and isinstance(first, int) and isinstance(count, int) and first >= 0 and 0 <= count <= 256:
        return bitmap.full(count) << first
    return 0
