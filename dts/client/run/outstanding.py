"""Blocks that were sent and whose results have not all come."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from dts.client.run.blocks import SentBlock

MAX_OUTSTANDING_JOBS = 1_000_000
MAX_OUTSTANDING_BLOCKS = 8192  # 64 MB would be 8 kB each; measured below 1 kB
MAX_KEPT = 16 * 1024 * 1024  # bytes of arguments that are remembered for the rows


@dataclass(slots=True)
class Outstanding:
    """Blocks by number, and what they add up to.

    Results of a block that was `refused` are not waited for. They are taken all the same: an earlier try to send it may
    have reached the server.
    """

    most_jobs: int = MAX_OUTSTANDING_JOBS
    blocks: dict[int, SentBlock] = field(default_factory=dict)
    refused: dict[int, SentBlock] = field(default_factory=dict)
    jobs: int = 0
    kept: int = 0

    @property
    def full(self) -> bool:
        """Whether no more may be sent for now."""
        return self.jobs >= self.most_jobs or len(self.blocks) >= MAX_OUTSTANDING_BLOCKS or self.kept >= MAX_KEPT

    @property
    def numbers(self) -> Iterable[int]:
        """The numbers of the blocks."""
        return self.blocks.keys()

    def add(self, number: int, block: SentBlock) -> None:
        """Expect the results of a block, but those that it has received already."""
        self.blocks[number] = block
        self.jobs += block.count - block.received.bit_count()
        self.kept += block.kept

    def forget(self, number: int) -> None:
        """No results will come for the block with that number."""
        if (block := self.blocks.pop(number, None)) is not None:
            self.jobs -= block.count - block.received.bit_count()
            self.kept -= block.kept

    def refuse(self, number: int) -> None:
        """The server has refused the block with that number, and does not have it."""
        if (block := self.blocks.get(number)) is not None:
            self.forget(number)
            self.refused[number] = block

    def receive(self, number: int, jobs: int) -> tuple[SentBlock | None, int]:
        """The block with that number, and which of `jobs` are news. A block that is complete is forgotten."""
        block = self.blocks.get(number)
        if block is None:
            late = self.refused.get(number)
            return late, 0 if late is None else late.receive(jobs)
        fresh = block.receive(jobs)
        self.jobs -= fresh.bit_count()
        if block.complete:
            self.kept -= block.kept
            del self.blocks[number]
        return block, fresh
