"""What can be kept of what a process tells of itself: bounded names, finite numbers, times that a calendar has.

Who sends log records and heartbeats makes them so, and who reads them does it again: what is on a queue is anybody's.
"""

from __future__ import annotations

import math

from dts.model.ranges import LEVEL

MAX_NAME = 256
"""Characters of the name of a host, a logger, a worker, a file."""

MAX_JOB = 64
"""Characters of the id of a job; a longer text is none."""

_AHEAD = 86400.0  # seconds that a clock may be ahead


def finite(value: object, *, low: float, high: float, default: float = 0.0) -> float:
    """A number as one between `low` and `high`; `default` for what is none."""
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        return default
    return default if math.isnan(number) else min(max(number, low), high)


def moment(value: object, now: float) -> float:
    """A time in seconds since the epoch; `now` for what is none, or one that is not yet."""
    seconds = finite(value, low=0.0, high=1e18)
    return seconds if 0.0 < seconds <= now + _AHEAD else now


def level(value: object) -> int:
    """The level of a log record, as in Python's logging module."""
    return int(finite(value, low=LEVEL.low, high=LEVEL.high))


def name(text: object, limit: int = MAX_NAME) -> str:
    """A name, cut off where it is too long, with surrogates as escapes; empty for what is no text."""
    if not isinstance(text, str):
        return ""
    plain = str.__str__(text)
    cut = plain if len(plain) <= limit else plain[: limit - 1] + "…"
    return cut if cut.isascii() else cut.encode(errors="backslashreplace").decode()


def job(text: object) -> str:
    """The id of a job; empty for what can be none."""
    return name(text) if isinstance(text, str) and len(text) <= MAX_JOB else ""
