"""A job and its result as a person or a program sees one; on the way they travel in blocks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from dts.model.states import JobState


@dataclass(frozen=True, slots=True)
class JobError:
    """Why a job failed. `reason` is a code when DTS itself ended the job (`crashed`, `poison`, …), else empty."""

    type: str
    message: str
    traceback: str = ""
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Result:
    """How a job ended. Times are in seconds, `started` since the epoch."""

    state: JobState
    value: Any = None
    error: JobError | None = None
    duration: float = 0.0
    attempt: int = 1
    worker: str = ""
    version: str = ""
    started: float = 0.0


@dataclass(frozen=True, slots=True)
class Job:
    """One request to run a function."""

    id: str
    run: str
    user: str
    function: str
    args: list[Any]
    kwargs: dict[str, Any]
    state: JobState
    created: float
    result: Result | None = None
