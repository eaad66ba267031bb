"""The contract of a store, the part about runs that have finished: closed or cancelled, with no job left to end.

`Run.finished` is written once and never changes. SQLite writes it in the transaction that ends the run's last job or
closes the run. MongoDB writes it right after, before the call returns; what a process leaves that dies in between is
for `finish_left_runs`. A finished run takes no more blocks and changes its state no more.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

from dts.model import Run


class FinishingStore(ABC):
    """What a store knows of runs that have finished."""

    @abstractmethod
    async def finish_runs(self, run_ids: Sequence[str]) -> list[str]:
        """Write, durably, that those of these runs have finished that have; the ids of those that this call wrote.

        For the caller of `record` with `finish` False. Runs that have not finished, and unknown ids, are passed over.
        """

    @abstractmethod
    async def finish_left_runs(self, *, after: str, limit: int) -> tuple[list[str], str]:
        """Finish runs among up to `limit` unfinished ones, by id from the one after `after`.

        Returns the ids of those that this call finished, and the id to go on after; empty at the end.
        """

    @abstractmethod
    async def finished_runs(self, *, after: tuple[float, str] = (0.0, ""), limit: int) -> list[Run]:
        """Runs in order of the time when they finished, and of their ids, from the one that follows `after`.

        With MongoDB a run may appear some seconds after one that finished later: the time is taken before the write.
        Whoever must not miss one asks again for the last minute, or sets `Run.follow_up`.
        """

    @abstractmethod
    async def runs_to_follow_up(self, *, after: tuple[float, str] = (0.0, ""), limit: int) -> list[Run]:
        """As `finished_runs`, but only those with `follow_up`: `note_followed_up` was not called for them yet."""

    @abstractmethod
    async def note_followed_up(self, run_ids: Sequence[str]) -> None:
        """Note, durably, that what was to follow the end of these runs has been done: their `follow_up` is False."""
