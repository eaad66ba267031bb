"""The contract of a store, the part about jobs that wait: delayed slices, leases, deadlines, and cancellations."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence

from dts.model import DelayedSlice, Lease, Outcome


class WaitingStore(ABC):
    """What a store keeps of jobs that wait. All of it costs per slice, and per job only under a lease."""

    # delayed slices

    @abstractmethod
    async def add_delayed(self, slices: Sequence[DelayedSlice]) -> list[bool]:
        """Add slices, durably; which of them are new. One whose id was ever added is a repeat, also after it fired."""

    @abstractmethod
    async def claim_delayed(self, *, now: float, limit: int, lease: float) -> list[DelayedSlice]:
        """Claim up to `limit` slices that are due, the longest due first; none of a paused run.

        A claimed slice is not given to anybody else for `lease` seconds, whatever becomes of the claimant.
        """

    @abstractmethod
    async def finish_delayed(self, ids: Sequence[str], *, now: float) -> None:
        """Note, durably, that these slices have fired: they count no more. What they planned is remembered."""

    @abstractmethod
    async def list_delayed(self, block_id: str) -> list[DelayedSlice]:
        """The slices of a block that have not fired."""

    @abstractmethod
    async def planned_attempts(self, after: Mapping[str, int]) -> dict[str, dict[int, int]]:
        """Which jobs of blocks were ever put into a slice: bitmaps by block and by the attempt's number.

        `after` has the blocks, and for each the number of the attempt of which only later ones are asked for, 0 for
        all: it costs per slice that is asked for, of which a block may have collected very many. They are read some
        thousands at a time, so that no number of them is too large to be read.

        Whatever became of the jobs and of the slice: one that has fired counts until it is forgotten. Blocks without
        such slices are left out.
        """

    @abstractmethod
    async def forget_delayed(self, before: float) -> int:
        """Forget slices that fired before a time, their ids and what they planned; how many."""

    # leases

    @abstractmethod
    async def take_leases(self, leases: Sequence[Lease]) -> list[bool]:
        """Note claims of jobs, new ones or longer ones, durably; False for those that are void.

        A claim is void when the job's fence is a newer one, or when the lease under the same fence is lost. Otherwise
        it makes the job the worker's until the later one of what is stored and what it says.
        """

    @abstractmethod
    async def list_leases(self, block_ids: Sequence[str]) -> list[Lease]:
        """The leases of jobs of these blocks, in no given order."""

    @abstractmethod
    async def expired_leases(self, *, now: float, limit: int) -> list[Lease]:
        """Leases that expired before `now`, lost ones among them, the longest expired first."""

    @abstractmethod
    async def lose_lease(self, lease: Lease) -> Lease | None:
        """Give the job of an expired lease its next fence and mark it as lost, durably, unless it changed meanwhile.

        Returns the lease as it is then, for one caller of all; None for the others.
        """

    @abstractmethod
    async def queue_lease(self, lease: Lease) -> None:
        """Note that the job of a lost lease is queued again under its fence, unless it changed meanwhile."""

    @abstractmethod
    async def pass_lease(self, lease: Lease) -> bool:
        """End a lease and give its job the next fence, durably: it is to be queued again. False if it changed."""

    @abstractmethod
    async def release_jobs(self, jobs: Mapping[str, int]) -> None:
        """Take jobs, bitmaps by block, out of delayed slices and leases: they have ended."""

    # deadlines

    @abstractmethod
    async def overdue_blocks(self, *, now: float, limit: int) -> list[Outcome]:
        """Outcomes of blocks with unfinished jobs whose `deadline` is before `now`, the longest overdue first."""

    @abstractmethod
    async def set_deadlines(self, deadlines: Mapping[str, float]) -> None:
        """Change the `deadline` of blocks; 0 for none. Need not be durable."""

    # cancellations

    @abstractmethod
    async def unfinished_blocks(
        self,
        *,
        user: str | None = None,
        function: str | None = None,
        runs: Sequence[str] | None = None,
        limit: int = 100,
        after: str = "",
    ) -> list[Outcome]:
        """Outcomes with unfinished jobs, of a user, of a function, of some runs, by id from the one after `after`."""

    @abstractmethod
    async def note_cancelled(self, ids: Sequence[str], *, now: float) -> None:
        """Remember that these jobs were cancelled, for workers that come back later."""

    @abstractmethod
    async def recently_cancelled(self, since: float, *, limit: int) -> list[str]:
        """Ids that were noted after `since` (seconds since the epoch), the `limit` latest, the last one first."""

    @abstractmethod
    async def forget_cancelled(self, before: float) -> None:
        """Forget ids that were noted before a time (seconds since the epoch)."""
