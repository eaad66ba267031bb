"""The contract of a store, the part about runs and dead letters that are kept for a time."""

from __future__ import annotations

from abc import ABC, abstractmethod

from dts.model import Run

LETTERS_AT_ONCE = 500
"""Dead letters of a run that one call of `delete_run` deletes."""


class RetentionStore(ABC):
    """What a store knows for retention. None of it need be durable, but that what is deleted stays deleted."""

    @abstractmethod
    async def functions_of_runs(self, namespace: str) -> list[str]:
        """The names of all functions of a namespace, registered or not, that there are runs of."""

    @abstractmethod
    async def expired_runs(
        self,
        *,
        user: str | None = None,
        function: str | None = None,
        before: float,
        limit: int,
        after: tuple[float, str] = (0.0, ""),
    ) -> list[Run]:
        """Runs of a user, or of a function (empty for those of several), that finished before a time.

        In order of that time and of their ids, from the one that follows `after`. Other runs cost nothing.
        """

    @abstractmethod
    async def idle_runs(
        self, *, user: str | None = None, function: str | None = None, before: float, limit: int
    ) -> list[str]:
        """Ids of open runs of a user, or of a function, with no unfinished job and no block created since `before`.

        Runs that were created since then are not idle either.
        """

    @abstractmethod
    async def delete_run(self, run_id: str, *, blocks: int) -> bool:
        """Delete up to `blocks` blocks of a run with all that belongs to them, and then the run itself.

        Dead letters whose header `run` names it go first, some at a time. Returns whether everything of it is gone; the
        caller repeats the call until it is.
        """
