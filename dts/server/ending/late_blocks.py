"""Stores blocks, and ends the jobs of those that come after their run was cancelled.

A block may be on its way into the store while its run is cancelled. Whoever cancels records that, then ends the jobs
of all blocks that are there; whoever brings a block stores it, then learns from the store whether the run is cancelled,
and if so ends the block's jobs: each block is seen by one of the two. What a process leaves that dies in between is for
`sweep`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from dts.errors import BlockTooLate
from dts.model import Block, Claim, Run
from dts.server.ending.cancel import end_jobs
from dts.server.record.blocks import outcomes_of
from dts.store import Store

_BLOCKS = 50  # of a deleted run that are deleted in one step


async def add_blocks(
    store: Store, blocks: Sequence[Block], *, run: Run | None = None, claim: Claim | None = None
) -> list[bool]:
    """Store blocks of one run, as `Store.add_blocks` does; when they come too late, end what was stored of them.

    Raises:
        BlockConflict: a different block is there under the same number.
        BlockTooLate: the run was cancelled, or deleted. Every job of the blocks has ended, or has gone with the run.
        StoreUnavailable: they may or may not be stored; the same again is harmless.
    """
    try:
        return await store.add_blocks(blocks, run=run, claim=claim)
    except BlockTooLate:
        await _cancel_late_blocks(store, blocks[0].run, [block.id for block in blocks])
        raise


async def _cancel_late_blocks(store: Store, run_id: str, block_ids: Iterable[str]) -> None:
    """End the jobs of blocks that came after their run was cancelled, as far as they were stored.

    When the run was deleted, its time being over, they go the same way.
    """
    await end_jobs(store, list((await outcomes_of(store, block_ids)).values()))
    if await store.get_run(run_id) is None:
        while not await store.delete_run(run_id, blocks=_BLOCKS):
            continue
