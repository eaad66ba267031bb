"""Jobs that failed and are worth another attempt: how they wait in the store, and how they come back.

What a worker says of them is grouped into slices of about the same delay and kept before its message is acked. The
id of a slice follows from that message, so that the same one twice delays a job once. When a slice is due, timekeeper
claims it, publishes what has not ended of it, and notes that it has fired; or has it wait at the gate, see `gate`.

Between the publishing and the note anything may happen: a fast attempt may have failed and been recorded, a claim may
end and somebody else publish the slice once more. So whether a slice has fired says nothing of its jobs, only what was
planned does; `daemons.attempts` has the rules.
"""

from __future__ import annotations

import logging
import math
import time
from collections import defaultdict
from collections.abc import Iterable, Sequence

from dts.broker import Broker
from dts.config import ServerSettings
from dts.errors import RouteUnavailable
from dts.model import DelayedSlice, Outcome, bitmap
from dts.server.access.parties import PartiesOf
from dts.server.lookup.catalogue import Catalogue
from dts.server.publish.gate import hold_back
from dts.server.publish.slices import delayed_messages
from dts.server.record.blocks import jobs_of
from dts.server.record.digests import digest_of
from dts.store import Store
from dts.wire import codec, dts_pb2

logger = logging.getLogger(__name__)

FIRE_LIMIT = 50
FIRE_LEASE = 60.0
"""Seconds in which a claimed slice is published, or given to the next who asks."""

FORGET_AFTER = 24 * 3600.0
"""Seconds for which a slice that has fired is remembered, lest a late repeat of its news makes it again."""

_STEPS = 4  # buckets that a delay and its double are apart: a slice comes back at most a quarter later than asked for
_MAX_ERRORS = 256 * 1024  # bytes of a slice's errors, before compression; above it they lose their tracebacks
_MAX_DELAY = 10 * 365 * 86400.0  # seconds


def delayed_slices(
    batch: dts_pb2.ResultBatch, results: Iterable[dts_pb2.Result], digest: bytes, outcome: Outcome, now: float
) -> list[DelayedSlice]:
    """The slices that some results of a batch make, one result of a job; `digest` tells the batch from every other."""
    unfinished = outcome.unfinished
    groups: defaultdict[tuple[int, int], list[dts_pb2.Result]] = defaultdict(list)
    for result in results:
        if unfinished >> result.index & 1:
            groups[result.attempt or 1, _bucket(result.delay)].append(result)
    return [
        _slice(batch, results, digest_of(digest + b"%d.%d" % group), outcome, now + _delay(group[1]))
        for group, results in groups.items()
    ]


class Firing:
    """Publishes slices that are due."""

    def __init__(self, store: Store, broker: Broker, catalogue: Catalogue, settings: ServerSettings) -> None:
        self._store = store
        self._broker = broker
        self._catalogue = catalogue
        self._settings = settings
        self._parties_of = PartiesOf(store, catalogue)

    async def fire(self) -> int:
        """Publish what is due until nothing is; returns how many slices that were.

        Raises:
            BrokerUnavailable: not every message was confirmed; its slice comes again.
            StoreUnavailable: the store does not answer.
        """
        fired = 0
        while slices := await self._store.claim_delayed(now=self._store.now(), limit=FIRE_LIMIT, lease=FIRE_LEASE):
            for block_id, group in _by_block(slices):
                try:
                    await self._fire_block(block_id, group)
                except RouteUnavailable as error:  # the others must not wait for it; its claim ends by itself
                    logger.warning("delayed jobs of block %s are not published now: %s", block_id, error)
            fired += len(slices)
        return fired

    async def _fire_block(self, block_id: str, slices: Sequence[DelayedSlice]) -> None:
        block, outcome = await self._store.get_block(block_id), await self._store.get_outcome(block_id)
        if block is None or outcome is None:
            logger.warning("delayed jobs of block %s are dropped: the block is not in the store", block_id)
        elif any(each.jobs & outcome.unfinished for each in slices):
            parties = await self._parties_of(block.user, block.function)
            if parties.limited or parties.paused:
                await hold_back(self._store, self._broker, slices, parties.priority(block.priority))
                return
            batch = await jobs_of(self._store, block)
            for each in slices:
                if left := each.jobs & outcome.unfinished:
                    post = delayed_messages(block, batch, _only(each, left), parties.function, self._settings)
                    await self._broker.publish(post.queue, post.messages)
        else:
            await self._store.release_jobs({block_id: outcome.ended})
        await self._store.finish_delayed([each.id for each in slices], now=time.time())


def _by_block(slices: Iterable[DelayedSlice]) -> list[tuple[str, list[DelayedSlice]]]:
    groups: defaultdict[str, list[DelayedSlice]] = defaultdict(list)
    for each in slices:
        groups[each.block].append(each)
    return list(groups.items())


def _only(each: DelayedSlice, jobs: int) -> DelayedSlice:
    return DelayedSlice(
        each.id, each.block, each.run, each.user, each.function, each.due, jobs, each.attempt, each.kills, each.fences
    )


def _bucket(delay: float) -> int:
    """The number of the bucket of a delay in seconds; 0 for none, and for what is no delay at all."""
    if not delay > 0.001:
        return 0
    return 1 + max(0, math.ceil(_STEPS * math.log2(min(delay, _MAX_DELAY) * 1000)))


def _delay(bucket: int) -> float:
    """The longest delay in a bucket, in seconds."""
    return 0.0 if bucket == 0 else 2.0 ** ((bucket - 1) / _STEPS) / 1000


def _slice(
    batch: dts_pb2.ResultBatch,
    results: Sequence[dts_pb2.Result],
    digest: bytes,
    outcome: Outcome,
    due: float,
) -> DelayedSlice:
    attempt = (results[0].attempt or 1) + 1
    jobs = bitmap.from_indices(result.index for result in results)
    body, content_encoding = codec.compress(_errors(batch, results))
    return DelayedSlice(
        id=f"{outcome.block}.{digest.hex()}",
        block=outcome.block,
        run=outcome.run,
        user=outcome.user,
        function=outcome.function,
        due=due,
        jobs=jobs,
        attempt=attempt,
        kills={result.index: result.kills for result in results if result.kills},
        fences={result.index: result.fence + 1 for result in results if result.fence},
        body=body,
        content_encoding=content_encoding,
    )


def _errors(batch: dts_pb2.ResultBatch, results: Iterable[dts_pb2.Result]) -> bytes:
    """The errors of some results as a ResultBatch, without anything that may be large."""
    errors = dts_pb2.ResultBatch(block=batch.block, worker=batch.worker, version=batch.version, started=batch.started)
    for result in results:
        kept = errors.results.add(
            index=result.index,
            status=dts_pb2.RETRY,
            error=result.error,
            duration=result.duration,
            offset=result.offset,
            attempt=result.attempt,
        )
        kept.error.message = kept.error.message[:2000]
    if errors.ByteSize() > _MAX_ERRORS:
        for kept in errors.results:
            kept.error.traceback = ""
            kept.error.message = kept.error.message[:200]
    return errors.SerializeToString()
