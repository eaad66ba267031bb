"""What a function may know of the job that it runs for.

    from dts.worker import context

    def main(path):
        context.logger.info("begun, attempt %d", context.attempt)
        for number, line in enumerate(open(path)):
            context.progress(number)

Outside of a job the names are empty, and `progress` does nothing.
"""

from __future__ import annotations

import logging
import math
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dts.worker.child.active_batch import Errand
    from dts.worker.child.runner import Runner

job_id: str
"""`<run>-<number>`; empty when the number is not known."""
run: str
function: str
"""`ns/func`."""
attempt: int
"""From 1."""

logger = logging.getLogger("dts.job")
"""Its records carry the job's id, and reach the logs of the whole system."""

_own: ContextVar[tuple[Errand, int] | None] = ContextVar("dts_job", default=None)


class _Now:
    """What the child works at, where jobs are run one after another."""

    errand: Errand | None = None
    runner: Runner | None = None


def progress(done: float, total: float = 0) -> None:
    """Tell how far the job is; `total` is 0 where it is not known. Cheap: what is told last in a second is sent.

    Raises:
        ValueError: one of them is negative, infinite, too large or not a number.
    """
    try:
        told = (float(done), float(total))
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"progress is told by numbers: {error}") from None
    if not (0 <= told[0] < math.inf and 0 <= told[1] < math.inf):
        raise ValueError(f"progress is told by finite numbers that are not negative, not by {told[0]} of {told[1]}")
    errand, at = now()
    if errand is not None and 0 <= at < len(errand.jobs):
        errand.told[at] = told
        errand.news.add(at)


def now() -> tuple[Errand | None, int]:
    """The message that the job at work is in, and its position; -1 for none."""
    own = _own.get()
    if own is not None:
        return own
    return _Now.errand, -1 if _Now.runner is None else _Now.runner.current


def own() -> tuple[Errand, int] | None:
    """The async job that the current task, or whatever it has begun, works for: its message and position."""
    return _own.get()


def enter(errand: Errand, position: int) -> None:
    """The current task runs the job at a position from here on."""
    _own.set((errand, position))


def begin(errand: Errand | None, runner: Runner) -> None:
    """The child works at a message from here on, or at none."""
    _Now.errand, _Now.runner = errand, runner


def current_job() -> str:
    """The id of the job at work, as `job_id`."""
    errand, at = now()
    return errand.job_id(at) if errand is not None and 0 <= at < len(errand.jobs) else ""


def __getattr__(name: str) -> Any:
    errand, at = now()
    inside = errand is not None and 0 <= at < len(errand.jobs)
    if name == "job_id":
        return current_job()
    if name in ("run", "function"):
        return getattr(errand.batch, name) if errand is not None else ""
    if name == "attempt":
        return (errand.jobs[at].attempt or 1) if errand is not None and inside else 1
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
