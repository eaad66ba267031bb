"""Which job the running code belongs to: behind `dts.worker.context`, and read by the child itself."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextvars import ContextVar

from dts.worker.child.active_batch import ActiveBatch

logger = logging.getLogger("dts.job")
"""That of functions."""

_own: ContextVar[tuple[ActiveBatch, int] | None] = ContextVar("dts_job", default=None)


class _Now:
    """What the child works at, where jobs are run one after another."""

    def __init__(self) -> None:
        self.batch: ActiveBatch | None = None
        self.position: Callable[[], int] = _no_job


def _no_job() -> int:
    return -1


_now = _Now()


def now() -> tuple[ActiveBatch | None, int]:
    """The message that the job at work is in, and its position; -1 for none."""
    own = _own.get()
    if own is not None:
        return own
    return _now.batch, _now.position()


def own() -> tuple[ActiveBatch, int] | None:
    """The async job that the current task, or whatever it has begun, works for: its message and position."""
    return _own.get()


def enter(batch: ActiveBatch, position: int) -> None:
    """The current task runs the job at a position from here on."""
    _own.set((batch, position))


def begin(batch: ActiveBatch | None, position: Callable[[], int]) -> None:
    """Note what the child works at from here on; `position` returns the position of its plain job at work."""
    _now.batch, _now.position = batch, position


def current_id() -> str:
    """The id of the job at work, `<run>-<number>`; empty when there is none or its number is not known."""
    batch, at = now()
    return batch.job_id(at) if batch is not None and 0 <= at < len(batch.jobs) else ""
