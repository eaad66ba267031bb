"""`/runs/ID/blocks`: what a run is made of, for a client that lost what it knew of it."""

from __future__ import annotations

from typing import Annotated

import msgspec

from dts.errors import TooLarge, WireError
from dts.model import Outcome, User, block_id
from dts.server.consts import CONTENT_NDJSON, CONTENT_PROTOBUF
from dts.server.handlers._base import authorized
from dts.server.handlers.declare import declares
from dts.server.handlers.visibility import WorkHandler
from dts.server.record.blocks import decode_block
from dts.server.record.lines import line_numbers, lines_of_parts
from dts.server.record.pages import result_page, result_rows

_MAX_BLOCKS = 100


class BlocksQuery(msgspec.Struct, forbid_unknown_fields=True):
    """Which blocks: up to `limit`, from the one that follows the number `after`."""

    limit: Annotated[int, msgspec.Meta(ge=1, le=_MAX_BLOCKS)] = _MAX_BLOCKS
    after: Annotated[int, msgspec.Meta(ge=-1)] = -1


class StoredBlock(msgspec.Struct):
    """A block of a run: how many jobs it has and how many of them have ended, and which lines they are for.

    Job i is for line `first_line` + i, unless `lines` names the line of each. Without either it is not known.
    """

    block: int
    jobs: int
    ended: int
    first_line: int | msgspec.UnsetType = msgspec.UNSET
    lines: list[int] | msgspec.UnsetType = msgspec.UNSET


class RunBlocksHandler(WorkHandler):
    """`/runs/ID/blocks`: the blocks of a run."""

    @authorized
    @declares(answer=list[StoredBlock], query=BlocksQuery)
    async def get(self, user: User, run_id: str) -> None:
        """Blocks of the run by number."""
        run = await self.own_run(user, run_id)
        query = self.query(BlocksQuery)
        outcomes = await self.context.store.list_blocks(run.id, limit=query.limit, after=query.after)
        blocks = [await self._block(outcome, outcome.first // run.block_size) for outcome in outcomes]
        self.answer([msgspec.to_builtins(block) for block in blocks])

    async def _block(self, outcome: Outcome, number: int) -> StoredBlock:
        stored = StoredBlock(number, outcome.count, outcome.ended.bit_count())
        block = await self.context.store.get_block(outcome.block)
        try:
            lines = None if block is None else line_numbers(decode_block(block))
        except (WireError, TooLarge):  # damaged in the store: its jobs end as failed
            lines = None
        if lines is not None:
            stored.first_line = lines[0]
            if not isinstance(lines, range):
                stored.lines = list(lines)
        return stored


class BlockResultsHandler(WorkHandler):
    """`/runs/ID/blocks/K/results`: all results of a block that there are."""

    @authorized
    @declares(gives=(CONTENT_NDJSON, CONTENT_PROTOBUF))
    async def get(self, user: User, run_id: str, number: str) -> None:
        """Results of the block's jobs that have ended, collected or not; none of a block that is not there."""
        run = await self.own_run(user, run_id)
        parts = await self.context.store.get_parts(block_id(run.id, int(number)))
        if CONTENT_PROTOBUF in self.request.headers.get("Accept", ""):
            self.set_header("Content-Type", CONTENT_PROTOBUF)
            self.finish(result_page(parts, run))
            return
        lines = await lines_of_parts(self.context.store, parts)
        self.set_header("Content-Type", CONTENT_NDJSON)
        self.finish(b"".join(result_rows(part, run, lines.get(part.block)) for part in parts))
