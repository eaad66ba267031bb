"""The contract of a store, the part about dead letters: messages that nobody could handle, kept for an operator."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

from dts.model import DeadLetter


class DeadLetterStore(ABC):
    """What a store keeps of dead letters."""

    @abstractmethod
    async def add_dead_letters(self, letters: Sequence[DeadLetter]) -> None:
        """Keep dead letters, durably. One whose id is there already is passed over."""

    @abstractmethod
    async def list_dead_letters(self, *, limit: int = 100, after: str | None = None) -> list[DeadLetter]:
        """Dead letters, by id, from the one that follows the id `after`."""

    @abstractmethod
    async def delete_dead_letters(self, letter_ids: Sequence[str]) -> None:
        """Delete dead letters, durably. Unknown ids are passed over."""

    @abstractmethod
    async def forget_dead_letters(self, *, before: float, keep: int, limit: int) -> int:
        """Delete dead letters that died before a time, and the oldest ones where there are more than `keep`.

        Up to `limit` of them, the oldest first; returns how many. Repeated until it is fewer, all are gone.
        """
