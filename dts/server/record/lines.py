"""Which line of a run's input a job is for, as the block that it came in says."""

from __future__ import annotations

from collections.abc import Sequence

from dts.errors import InvalidInput, TooLarge, WireError
from dts.model import Part
from dts.server.record.blocks import decode_block
from dts.store import Store
from dts.wire import dts_pb2

MAX_LINE = 2**53
"""The greatest number of a line: what any reader of JSON takes for the same number."""


def check_lines(batch: dts_pb2.JobBatch) -> None:
    """Make sure that a block says of all its jobs which lines they are for, or of none.

    Raises:
        InvalidInput: what is wrong.
    """
    if batch.skipped and (len(batch.skipped) != len(batch.jobs) or not batch.first_line):
        raise InvalidInput("skipped must have a number for each job, and first_line must be given with it")
    if batch.first_line > MAX_LINE:
        raise InvalidInput(f"first_line must be {MAX_LINE} at most")


def line_numbers(batch: dts_pb2.JobBatch) -> Sequence[int] | None:
    """The line of each job of a block, None if the block does not say."""
    if not batch.first_line:
        return None
    if not batch.skipped:
        return range(batch.first_line, batch.first_line + len(batch.jobs))
    lines = []
    line = batch.first_line - 1
    for skipped in batch.skipped:
        line += skipped + 1
        lines.append(line)
    return lines


async def lines_of_parts(store: Store, parts: Sequence[Part]) -> dict[str, Sequence[int]]:
    """The lines of the jobs of each block that `parts` are of; blocks that do not say are left out.

    Raises:
        StoreUnavailable: the store does not answer.
    """
    found: dict[str, Sequence[int]] = {}
    for block_id in dict.fromkeys(part.block for part in parts):
        block = await store.get_block(block_id)
        try:
            lines = None if block is None else line_numbers(decode_block(block))
        except (WireError, TooLarge):  # damaged in the store, which whoever runs its jobs reports
            lines = None
        if lines is not None:
            found[block_id] = lines
    return found
