"""What a function may know of the job that it runs for.

    from dts.worker import context

    def main(path):
        context.logger.info("begun, attempt %d", context.attempt)
        for number, line in enumerate(open(path)):
            context.progress(number)

Outside of a job the names are empty, and `progress` does nothing.
"""

from __future__ import annotations

import math
from typing import Any

from dts.worker.child import current_job
from dts.worker.child import secrets as held
from dts.worker.child.current_job import logger
from dts.worker.child.secrets import Secrets

__all__ = ["attempt", "function", "job_id", "logger", "progress", "run", "secrets"]

job_id: str
"""`<run>-<number>`; empty when the number is not known."""
run: str
function: str
"""`ns/func`."""
attempt: int
"""From 1."""
secrets: Secrets
"""Those of the function's namespace: `context.secrets.TOKEN`, or `context.secrets["TOKEN"]`."""


def progress(done: float, total: float = 0) -> None:
    """Report how far the job is; `total` is 0 where it is not known. Cheap: the last report in each second is sent.

    Raises:
        ValueError: one of them is negative, infinite, too large or not a number.
    """
    try:
        reported = (float(done), float(total))
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"progress takes numbers: {error}") from None
    if not (0 <= reported[0] < math.inf and 0 <= reported[1] < math.inf):
        raise ValueError(f"progress takes finite numbers from 0, not {reported[0]} of {reported[1]}")
    batch, at = current_job.now()
    if batch is not None and 0 <= at < len(batch.jobs):
        batch.progress[at] = reported
        batch.progressed.add(at)


def __getattr__(name: str) -> Any:
    batch, at = current_job.now()
    if name == "job_id":
        return current_job.current_id()
    if name in ("run", "function"):
        return getattr(batch.batch, name) if batch is not None else ""
    if name == "secrets":
        return held.current()
    if name == "attempt":
        return (batch.jobs[at].attempt or 1) if batch is not None and 0 <= at < len(batch.jobs) else 1
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
