"""The contract of a store, the part about the fleet: heartbeats, log entries. None of it need be durable."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

from dts.model import LogEntry, LogFilter, WorkerState


class FleetStore(ABC):
    """What a store keeps of workers and their logs."""

    @abstractmethod
    async def save_heartbeats(self, states: Sequence[WorkerState]) -> None:
        """Keep the last state of each worker; one that is older than what is there is passed over."""

    @abstractmethod
    async def list_heartbeats(self, *, since: float = 0.0) -> list[WorkerState]:
        """The last state of every worker that was heard of after `since`, by host and worker."""

    @abstractmethod
    async def drop_heartbeats(self, before: float) -> int:
        """Forget workers that were not heard of since `before`; how many."""

    @abstractmethod
    async def add_logs(self, entries: Sequence[LogEntry]) -> None:
        """Keep log entries. One whose id is there already is passed over."""

    @abstractmethod
    async def list_logs(
        self, which: LogFilter | None = None, *, limit: int = 100, after: str | None = None
    ) -> list[LogEntry]:
        """Log entries, newest first, from the one that follows the id `after`."""

    @abstractmethod
    async def prune_logs(self, *, before: float, keep: int) -> int:
        """Drop entries from before a time, and the oldest of those that are more than `keep`; how many."""
