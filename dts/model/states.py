"""The states of a job and of a run, and the moves between them that are legal.

    accepted ─▶ queued ─▶ running ─▶ succeeded
        │          │         ├─────▶ failed       attempts used up, or not worth retrying
        │          │         └─────▶ delayed ─▶ queued (next attempt, exponential backoff with jitter)
        └──────────┴─────────┴─────▶ cancelled

A job's state is not stored a job at a time: it follows from its block (`accepted` until published) and its
block's outcome (the bitmaps of jobs that run and that ended). `running` is an observation that can be missed, so
a job may end straight from `accepted` or `queued`, as seen from the store.
"""

from __future__ import annotations

from enum import StrEnum


class JobState(StrEnum):
    """Where a job is in its life."""

    ACCEPTED = "accepted"
    QUEUED = "queued"
    RUNNING = "running"
    DELAYED = "delayed"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def terminal(self) -> bool:
        """Whether the job has ended: a job ends once."""
        return self in _TERMINAL

    def may_become(self, target: JobState) -> bool:
        """Whether a job in this state may be recorded as `target` next."""
        return target in _MOVES[self]


_TERMINAL = frozenset({JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED})

_MOVES: dict[JobState, frozenset[JobState]] = {
    JobState.ACCEPTED: frozenset({JobState.QUEUED, JobState.RUNNING}) | _TERMINAL,
    JobState.QUEUED: frozenset({JobState.RUNNING}) | _TERMINAL,
    JobState.RUNNING: frozenset({JobState.QUEUED, JobState.DELAYED}) | _TERMINAL,
    JobState.DELAYED: frozenset({JobState.QUEUED, JobState.CANCELLED}),
    JobState.SUCCEEDED: frozenset(),
    JobState.FAILED: frozenset(),
    JobState.CANCELLED: frozenset(),
}


class RunState(StrEnum):
    """Where a run is in its life. It has finished when it is closed and every job of it has ended.

    Being paused is not a state but a flag beside it: an open run and a closed one can both be held back.
    """

    OPEN = "open"
    CLOSED = "closed"
    CANCELLED = "cancelled"

    def may_become(self, target: RunState) -> bool:
        """Whether a run in this state may be moved to `target`; to stay where it is, is always allowed."""
        return target is self or target in _RUN_MOVES[self]


_RUN_MOVES: dict[RunState, frozenset[RunState]] = {
    RunState.OPEN: frozenset({RunState.CLOSED, RunState.CANCELLED}),
    RunState.CLOSED: frozenset({RunState.CANCELLED}),
    RunState.CANCELLED: frozenset(),
}
