"""Reads blocks and what became of them; a block that is damaged in the store ends its own jobs, and no others."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable

from dts.errors import TooLarge, WireError
from dts.model import Block, Outcome
from dts.server.record.results import failed_candidate
from dts.store import Store
from dts.wire import codec, dts_pb2

logger = logging.getLogger(__name__)


async def outcomes_of(store: Store, block_ids: Iterable[str]) -> dict[str, Outcome]:
    """The outcomes of blocks, each asked for once; those that are not in the store are left out.

    Raises:
        StoreUnavailable: the store does not answer.
    """
    found = await asyncio.gather(*(store.get_outcome(block_id) for block_id in dict.fromkeys(block_ids)))
    return {outcome.block: outcome for outcome in found if outcome is not None}


def decode_block(block: Block) -> dts_pb2.JobBatch:
    """The jobs of a stored block.

    Raises:
        WireError: the store's copy is damaged.
    """
    return codec.decode(dts_pb2.JobBatch, block.body, block.content_encoding)


async def jobs_of(store: Store, block: Block) -> dts_pb2.JobBatch:
    """The jobs of a stored block; none when the store's copy is damaged, and then all that have not ended fail.

    Raises:
        StoreUnavailable: the store does not answer.
    """
    try:
        return decode_block(block)
    except (WireError, TooLarge) as error:
        logger.error(
            "block %s of run %s is damaged in the store: its unfinished jobs end as failed, submit them again: %s",
            block.id,
            block.run,
            error,
        )
    outcome = await store.get_outcome(block.id)
    if outcome is not None and (left := outcome.unfinished):
        why = "the store's copy of the job is damaged: submit it again"
        await store.record([failed_candidate(outcome, left, kind="DamagedBlock", message=why, reason="damaged")])
        await store.release_jobs({block.id: left})
    return dts_pb2.JobBatch(block=block.id, run=block.run, function=block.function)
