"""The contract of a store, the part about limits: jobs that wait for others to end, and requests counted by rate."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import NamedTuple

from dts.model import DelayedSlice


class Release(NamedTuple):
    """Jobs of a gated slice, as a bitmap, that may run now, and those that go on waiting. Others have ended."""

    slice: DelayedSlice
    jobs: int
    left: int


class GatedGroup(NamedTuple):
    """Gated slices of a user and a function, and the `due` of the one that comes first."""

    user: str
    function: str
    first: float


class GateStore(ABC):
    """What a store keeps for limits."""

    # the gate

    @abstractmethod
    async def gate_delayed(self, ids: Sequence[str], *, due: float) -> None:
        """Make waiting slices gated ones, durably: `claim_delayed` passes them over from now on.

        `due` is their place among the others: those with the lowest come first.
        """

    @abstractmethod
    async def reorder_gated(self, run_id: str, function: str, *, due: float) -> None:
        """Give the gated slices of a run and a function another place among the others. Need not be durable."""

    @abstractmethod
    async def gated_groups(self) -> list[GatedGroup]:
        """All gated slices that have not fired, by user and function."""

    @abstractmethod
    async def list_gated(self, user: str, function: str, *, limit: int) -> list[DelayedSlice]:
        """Gated slices of a user and a function, the longest due first; none of a paused run."""

    @abstractmethod
    async def list_released(self, *, limit: int) -> list[DelayedSlice]:
        """Gated slices that have `released` jobs, in no given order."""

    @abstractmethod
    async def release_gated(self, releases: Sequence[Release]) -> list[bool]:
        """Put jobs of gated slices among the `released` ones and leave others waiting; False where a slice has changed.

        One atomic update each: a job is never in neither of the two. Need not be durable: the slice is, and a release
        that is lost is made again.
        """

    @abstractmethod
    async def confirm_released(self, ids: Sequence[str], *, now: float) -> None:
        """Note that no job of these slices is `released` any more, and that those without waiting ones have fired.

        Need not be durable: jobs whose note is lost are published once more.
        """

    @abstractmethod
    async def jobs_in_flight(
        self,
        *,
        user: str | None = None,
        function: str | None = None,
        namespace: str | None = None,
        blocks: Sequence[str] | None = None,
    ) -> dict[str, int]:
        """How many jobs of a user, a function, or a namespace's functions are with the broker or at work, by block.

        Those of published blocks that have not ended and are in no slice that waits. While jobs go from one to the
        other, they may count although they do not any more, never the other way round. Blocks without such jobs are
        left out; with `blocks`, all others, too, and the call costs no more than those.
        """

    # leases of duties that one process has at a time

    @abstractmethod
    async def acquire(self, name: str, holder: str, *, seconds: float) -> bool:
        """Take or extend the lease `name` for so many seconds by the store's clock; False while another holder has it.

        All processes that want a lease ask for the same number of seconds. None keeps it for longer than that after it
        last asked, not even when the clock was set back: a live holder has time to ask again, a dead one loses it.
        """

    @abstractmethod
    async def release(self, name: str, holder: str) -> None:
        """End the lease `name`, unless another holder has it."""

    # rates

    @abstractmethod
    async def take_token(self, subject: str, *, rate: float) -> float:
        """Count an event of a subject that may have `rate` a second, and a second's worth, at least one, at once.

        Returns 0 if it may happen, else the seconds until the next one may; nothing is counted then. Exact, whoever
        else asks at the same time: the generic cell rate algorithm in its form of virtual scheduling (ITU-T
        Recommendation I.371, 2004, annex A.1), which needs one time for each subject, that at which the next event
        would come if they came evenly. By the store's clock. Need not be durable; forgotten when it says nothing more.
        """
