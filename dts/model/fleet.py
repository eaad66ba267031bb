"""What is known of the fleet: how its workers are, and what their logs say. Times are in seconds since the epoch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

ENDED = "ended"
"""The state in the last heartbeat of a worker that ends as it was asked to."""

CHILDLESS = "childless"
"""The state of a worker that has had no child process for a minute: it takes nothing, though it is heard of."""


STALLED = "stalled"
"""How the state of a worker begins that takes nothing though it could."""


@dataclass(frozen=True, slots=True)
class WorkerState:
    """The last heartbeat of a worker. Percentages are of its host; `load` is that of a minute.

    `functions` has by name how many jobs it has `received` and not given back since it started, how many attempts were
    `done`, how many `failed` whether or not another one follows, and how many children were `replaced` after its jobs;
    `running` a row for each job at work, with `job`, `function` and `started`.

    All times are by the store's clock. `ahead` is by how many seconds the clock of the worker's host is ahead of it,
    negative for one that is behind.
    """

    worker: str
    host: str
    time: float
    pid: int = 0
    version: str = ""
    started: float = 0.0
    routes: tuple[str, ...] = ()
    cpu: float = 0.0
    memory: float = 0.0
    disk: float = 0.0
    load: float = 0.0
    children: int = 0
    jobs_running: int = 0
    state: str = ""
    functions: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    running: tuple[Mapping[str, Any], ...] = ()
    ahead: float = 0.0
    notes: tuple[str, ...] = ()

    @property
    def can_work(self) -> bool:
        """Whether the worker could run jobs when it was heard of last."""
        return self.state not in (ENDED, CHILDLESS) and not self.is_stalled

    @property
    def has_ended(self) -> bool:
        """Whether the worker has said that this is its last heartbeat: it was stopped, and is not missed."""
        return self.state == ENDED

    @property
    def is_stalled(self) -> bool:
        """Whether messages wait for it, it has free children, and it takes nothing."""
        return self.state.startswith(STALLED)


@dataclass(frozen=True, slots=True)
class LogEntry:
    """A log record of some process of the fleet. `id` sorts by time; `level` is as in Python's logging module."""

    id: str
    host: str
    source: str
    time: float
    level: int
    logger: str
    message: str
    job: str = ""


@dataclass(frozen=True, slots=True)
class LogFilter:
    """Which log entries to list: those that match all that is given. `level` is the lowest."""

    host: str | None = None
    source: str | None = None
    logger: str | None = None
    job: str | None = None
    level: int | None = None
    since: float | None = None
    until: float | None = None
