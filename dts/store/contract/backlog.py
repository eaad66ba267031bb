"""The contract of a store, the part about what is accepted and waits to be published."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence

from dts.model import Backlog, Claim, Unsent

GRACE = 0.5
"""Seconds from the end of a claim until its block is in the backlog: more than the clocks of processes that claim and
look may differ by, when each goes by the store's time as it has heard it last."""


class BacklogStore(ABC):
    """What a store knows of blocks that are not with the broker, or in part.

    Such a block is in the backlog unless it is claimed, its run is paused or cancelled, its `not_before` has not come,
    or all its jobs have ended.
    """

    @abstractmethod
    async def backlog(self) -> list[Backlog]:
        """What waits in the backlog, in rows as `Backlog` says. Costs the same however much else there is."""

    @abstractmethod
    async def backlog_blocks(self, rows: Sequence[tuple[Backlog, int]]) -> list[list[Unsent]]:
        """Blocks that are in the backlog, for each of some rows of it, and so many of that at most.

        Those of a run by number, single jobs in the order in which they came.
        """

    @abstractmethod
    async def note_sent(self, sent: Mapping[str, int]) -> None:
        """Note for blocks how many of their jobs, the first ones, the broker has confirmed; it never becomes fewer.

        Need not be durable: jobs whose note is lost are published once more. What is published as a whole is for
        `mark_published`.
        """

    @abstractmethod
    async def mark_published(self, block_ids: Sequence[str]) -> None:
        """Note that the broker has confirmed every message of these blocks, and end claims of them.

        Unknown ids are passed over. Need not be durable: a mark that is lost means one more publication.
        """

    @abstractmethod
    async def extend_claims(self, block_ids: Sequence[str], claim: Claim) -> list[str]:
        """Extend the claims that `claim.holder` has of unpublished blocks; the ids of those blocks.

        A claim that has ended is not extended: the block is in the backlog, or will be in a moment. Need not be
        durable.
        """

    @abstractmethod
    async def release_claims(self, block_ids: Sequence[str], holder: str) -> None:
        """Give back blocks that `holder` has claimed: they are in the backlog.

        Unknown ids are passed over. Need not be durable.
        """

    @abstractmethod
    async def recheck_holds(self) -> None:
        """Make sure that no block or slice is passed over whose run is no longer paused, whatever broke off before."""
