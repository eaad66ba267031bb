"""Blocks that the store hands back and nobody can read: their jobs end with a word, and everybody else's go on."""

from __future__ import annotations

import logging

from dts.errors import TooLarge, WireError
from dts.model import Block
from dts.server.publish.slices import decode_block
from dts.server.record.results import failed_candidate
from dts.store import Store
from dts.wire import dts_pb2

logger = logging.getLogger(__name__)


async def jobs_of(store: Store, block: Block) -> dts_pb2.JobBatch:
    """The jobs of a stored block; none, and an end for all that have not ended, when the store's copy is damaged.

    Raises:
        StoreUnavailable: the store does not answer.
    """
    try:
        return decode_block(block)
    except (WireError, TooLarge) as error:
        logger.error("block %s of run %s is damaged in the store, its jobs fail: %s", block.id, block.run, error)
    outcome = await store.get_outcome(block.id)
    if outcome is not None and (left := outcome.unfinished):
        why = "the store's copy of the job is damaged: submit it again"
        await store.record([failed_candidate(outcome, left, kind="DamagedBlock", message=why, reason="damaged")])
        await store.release_jobs({block.id: left})
    return dts_pb2.JobBatch(block=block.id, run=block.run, function=block.function)
