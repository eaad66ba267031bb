"""The contract of a store, the part about runs that are kept for a time: which there are, and what is noted of them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

from dts.model import Run

LETTERS_AT_ONCE = 500
"""Dead letters of a run that one call of `delete_run` deletes."""


@dataclass(frozen=True, slots=True)
class RunNote:
    """What was last seen of a run on behalf of somebody whose runs are kept for a time, its `subject`.

    `finished` is since when (seconds since the epoch) no job of it was unfinished and no job was added; None while
    there are unfinished ones. `jobs` is how many it had.
    """

    subject: str
    run: str
    finished: float | None
    jobs: int


class RetentionStore(ABC):
    """What a store knows for retention. None of it need be durable, but that what is deleted stays deleted."""

    @abstractmethod
    async def oldest_runs(
        self, *, user: str | None = None, function: str | None = None, after: str, before: str, limit: int
    ) -> list[Run]:
        """Runs of a user, or of a function (empty for those of several), with ids between two, by id."""

    @abstractmethod
    async def functions_of_runs(self, namespace: str) -> list[str]:
        """The names of all functions of a namespace, registered or not, that there are runs of."""

    @abstractmethod
    async def write_notes(self, notes: Sequence[RunNote]) -> None:
        """Put notes in the places of those of the same subject and run."""

    @abstractmethod
    async def last_noted(self, subject: str) -> str:
        """The greatest id of a run that there is a note of for a subject; empty if there is none."""

    @abstractmethod
    async def unfinished_notes(self, subject: str, *, limit: int, after: str = "") -> list[RunNote]:
        """A subject's notes of runs that had not finished, by run from the one that follows `after`."""

    @abstractmethod
    async def finished_notes(
        self, subject: str, *, until: float, limit: int, after: tuple[float, str] = (0.0, "")
    ) -> list[RunNote]:
        """A subject's notes of runs that finished until a time, by that time and by run.

        From the one that follows those of the run `after`.
        """

    @abstractmethod
    async def delete_run(self, run_id: str, *, blocks: int) -> bool:
        """Delete up to `blocks` blocks of a run with all that belongs to them, and then the run itself with its notes.

        Dead letters whose header `run` names it go first, some at a time. Returns whether everything of it is gone; the
        caller repeats the call until it is.
        """
