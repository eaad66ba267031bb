"""What is remembered of blocks whose results have not all come."""

from __future__ import annotations

from dts.client.run.blocks import SentBlock
from dts.client.run.outstanding import Outstanding


def test_results_of_a_block_that_was_refused_are_taken_and_not_waited_for() -> None:
    outstanding = Outstanding()
    outstanding.add(0, SentBlock(0, 0, 3, 1))
    outstanding.add(1, SentBlock(1, 3, 2, 4))
    outstanding.refuse(1)
    assert (list(outstanding.numbers), outstanding.jobs) == ([0], 3)
    block, fresh = outstanding.receive(1, 0b01)  # an earlier try to send it had reached the server
    assert block is not None
    assert (block.first_line, fresh) == (4, 0b01)
    assert outstanding.receive(1, 0b11)[1] == 0b10, "each result counts once"
    assert outstanding.jobs == 3
