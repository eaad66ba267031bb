"""The contract of a store, the part about what became of jobs: recorded by porter, read and collected by clients."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from dts.model import Block, Candidate, DelayedSlice, Lease, Outcome, Part, Statistics

SMALL_BLOCK = 16
"""Jobs in a block whose parts are read together with all else of it."""


@dataclass(frozen=True, slots=True)
class BlockRecord:
    """All that is known of a block. `parts` is None where the block has more jobs than SMALL_BLOCK: too much to read.

    `slices` are those that have not fired; slices and leases are in no given order.
    """

    block: Block
    outcome: Outcome
    parts: Sequence[Part] | None
    slices: Sequence[DelayedSlice]
    leases: Sequence[Lease]


class JobPlace(NamedTuple):
    """Where a job is: its run, its block's number, and its own number in the run. The default is before all jobs."""

    run: str = ""
    block: int = 0
    number: int = -1


class ResultStore(ABC):
    """What a store keeps of the outcomes of blocks."""

    # outcomes

    @abstractmethod
    async def record(self, candidates: Sequence[Candidate], *, finish: bool = True) -> list[int | None]:
        """Merge candidates into the outcomes of their blocks by `dts.model.merge`, durably.

        Returns, in the order of the candidates, the bitmap of jobs that each of them ended: 0 for a repeat, None when
        there is no such block. Candidates of one block may be written at once. Several processes may record results of
        the same jobs at the same time: every job ends exactly once. `running` alone need not be durable.

        Runs that finish by it are finished when it returns (see `FinishingStore`), unless `finish` is False: then the
        caller calls `finish_runs`, once those who wait for the results have heard of them.
        """

    @abstractmethod
    async def get_outcome(self, block_id: str) -> Outcome | None:
        """What became of a block so far, or None if there is no such block."""

    @abstractmethod
    async def inspect_block(self, block_id: str) -> BlockRecord | None:
        """All that is known of a block, read by one request to the store; None if there is no such block."""

    @abstractmethod
    async def get_parts(self, block_id: str) -> list[Part]:
        """All parts of a block's outcome, collected ones, too, by number."""

    @abstractmethod
    async def uncollected_parts(self, run_id: str, *, max_jobs: int) -> list[Part]:
        """Parts of a run that are not collected yet, in no given order, up to about `max_jobs` jobs in all.

        Returns at least one part if there is any, and whole parts only, so it may exceed `max_jobs` by one part's jobs.
        Gives fewer when their bodies are large: no more than 16 MiB in all, but for a single part.
        """

    @abstractmethod
    async def uncollected_counts(self, run_ids: Sequence[str]) -> dict[str, int]:
        """How many jobs of each of these runs have ended and are not collected; runs without such jobs are left out.

        It costs per block with such jobs, and a look into an index for a run without any.
        """

    @abstractmethod
    async def collect(self, run_id: str, receipts: Iterable[str]) -> int:
        """Mark parts as collected, durably, by their receipts (`Part.receipt`); they are not given again.

        Returns the number of jobs in the parts that this call marked and that were not collected one by one before.
        Repeated and unknown receipts are passed over.
        """

    @abstractmethod
    async def collect_jobs(self, user: str, job_ids: Iterable[str]) -> int:
        """Mark jobs of a user that have ended as collected, durably, by their ids: they are no longer retrievable.

        Returns how many were marked that had not been collected. What is no id, somebody else's job, or one that has
        not ended is passed over. A part whose jobs are all collected is collected itself; until then it is given whole.
        """

    @abstractmethod
    async def run_statistics(self, run_id: str) -> Statistics:
        """How many jobs of a run are in which state."""

    @abstractmethod
    async def user_statistics(self, user: str) -> Statistics:
        """How many jobs of a user are in which state, over all their runs."""

    @abstractmethod
    async def keep_counts(self) -> bool:
        """Do some of what keeps statistics cheap however many blocks there are, where writes do not do it themselves.

        Returns whether there is more to do. Statistics are exact whether it is done or not.
        """

    @abstractmethod
    async def retrievables(self, user: str, *, limit: int, after: str | None = None) -> list[str]:
        """Ids of up to `limit` jobs of a user that have ended and are not collected, oldest run first.

        Jobs of a run are in order of their numbers. From the one that follows the job `after`, which need not be among
        them; what is no id is taken for none.
        """

    @abstractmethod
    async def count_unfinished(
        self, *, user: str | None = None, function: str | None = None, namespace: str | None = None
    ) -> int:
        """How many jobs have not ended, of a user, of a function, of a namespace's functions, or of all."""
