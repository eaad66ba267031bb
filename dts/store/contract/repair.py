"""The contract of a store, the part about blocks that were published and whose messages may have been lost."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence

from dts.model import Outcome


class RepairStore(ABC):
    """What a store knows of blocks that are with the broker, and who looks after them."""

    @abstractmethod
    async def published_blocks(
        self, *, function: str, older_than: float, limit: int = 100, after: str = ""
    ) -> list[Outcome]:
        """Outcomes of a function's published blocks with unfinished jobs, by id from the one after `after`.

        Those that were created before `older_than` (seconds since the epoch), that nobody has claimed, and whose run is
        neither paused nor cancelled.
        """

    @abstractmethod
    async def claim_published(self, seconds: Mapping[str, float], holder: str) -> list[str]:
        """Claim published blocks for so many seconds each; the ids of those that nobody had claimed.

        Of several who ask at the same time one gets a block. `release_claims` gives it back under the same `holder`.
        Need not be durable.
        """

    @abstractmethod
    async def waiting_jobs(self, block_ids: Sequence[str], *, leased: bool = True) -> dict[str, int]:
        """The jobs of these blocks, bitmaps by block, that need no message: in a slice that has not fired, or leased.

        Without `leased` only those in slices that were not let go.
        A job whose lease has no expiry is queued again, and is not among them. Blocks without such jobs are left out.
        """
