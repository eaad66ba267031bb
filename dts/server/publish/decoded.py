"""Blocks that are published some jobs at a time, kept decoded in between."""

from __future__ import annotations

import logging
from collections import OrderedDict

from dts.model import Block
from dts.server.record.blocks import jobs_of
from dts.store import Store
from dts.wire import dts_pb2

logger = logging.getLogger(__name__)

_KEPT = 128
_KEPT_BYTES = 64 * 1024 * 1024
"""Blocks that are kept, more than there are runs whose turns come in one portion, and their size when decoded."""


class DecodedBlocks:
    """The blocks that were asked for last."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._blocks: OrderedDict[str, tuple[Block, dts_pb2.JobBatch, int]] = OrderedDict()
        self._size = 0

    async def get(self, block_id: str) -> tuple[Block, dts_pb2.JobBatch] | None:
        """A block with its jobs, or None if it is no longer there."""
        if (known := self._blocks.get(block_id)) is not None:
            self._blocks.move_to_end(block_id)
            return known[:2]
        block = await self._store.get_block(block_id)
        if block is None:
            logger.warning("jobs of block %s are dropped: the block is not in the store", block_id)
            return None
        batch = await jobs_of(self._store, block)
        self.forget(block_id)  # another task may have read it meanwhile
        size = len(block.body) + batch.ByteSize()
        self._blocks[block_id] = block, batch, size
        self._size += size
        while len(self._blocks) > 1 and (len(self._blocks) > _KEPT or self._size > _KEPT_BYTES):
            self._size -= self._blocks.popitem(last=False)[1][2]
        return block, batch

    def forget(self, block_id: str) -> None:
        """Keep a block no longer: all of it is published."""
        if (gone := self._blocks.pop(block_id, None)) is not None:
            self._size -= gone[2]
