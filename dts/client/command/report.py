"""How far a run is, as a line of text or a record for a program."""

from __future__ import annotations

from typing import Any

from dts.client.components import DataSource
from dts.client.run.progress import Progress

MOST_ERRORS = 10
"""Errors that a summary has, the most frequent ones."""

_SLOW = 0.1  # seconds below which no line is called slow


def estimate_total(progress: Progress, source: DataSource) -> int | None:
    """How many lines there are: known at the end, guessed from the share of bytes read before; None for a pipe."""
    if progress.all_read:
        return progress.lines
    if not source.bytes_total or not source.bytes_read or not progress.lines:
        return None
    return max(progress.lines, round(progress.lines * source.bytes_total / source.bytes_read))


def seconds_left(progress: Progress, total: int | None) -> float | None:
    """How long the lines that have no result yet will take at the rate so far; None when that is not known."""
    if total is None or progress.done <= progress.resumed:
        return None
    return (total - progress.done) / progress.rate


def describe(progress: Progress, source: DataSource, held_by: str = "") -> str:
    """How far a run is, and what it waits for, in a line."""
    total = estimate_total(progress, source)
    of = "" if total is None else f" of {'' if progress.all_read else 'about '}{total:,}"
    parts = [f"{progress.done:,}{of} lines", f"{progress.failed:,} failed", f"{progress.rate:,.0f}/s"]
    if (left := seconds_left(progress, total)) is not None:
        parts.append(f"{clock(left)} left")
    if progress.counts:
        parts += [f"{progress.running:,} running", f"{progress.queued:,} waiting"]
    return ", ".join(parts) + (f": {held_by or progress.waiting}" if held_by or progress.waiting else "")


def as_record(progress: Progress, source: DataSource, held_by: str = "") -> dict[str, Any]:
    """The same for a program: seconds, and numbers of lines; None where it is not known."""
    total = estimate_total(progress, source)
    left = seconds_left(progress, total)
    return {
        "run": progress.run,
        "seconds": round(progress.seconds, 1),
        "total": total,
        "done": progress.done,
        "failed": progress.failed,
        "rate": round(progress.rate, 1),
        "left": None if left is None else round(left, 1),
        "running": progress.running if progress.counts else None,
        "waiting": progress.queued if progress.counts else None,
        "why": held_by or progress.waiting,
    }


def clock(seconds: float) -> str:
    """A duration as h:mm:ss, without hours when there are none."""
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02}:{second:02}" if hours else f"{minute}:{second:02}"


def frequent_errors(progress: Progress) -> list[tuple[str, int, int]]:
    """The most frequent errors: what they were, how often they came, and in which line first."""
    most = sorted(progress.errors.items(), key=lambda item: -item[1][0])[:MOST_ERRORS]
    return [(what, count, first) for what, (count, first) in most]


def details(progress: Progress) -> list[str]:
    """What failed, and what took long, a line each."""
    found = [f"  {count} × {what} (first in line {first})" for what, count, first in frequent_errors(progress)]
    slow = [f"line {line} ({seconds:.1f} s)" for seconds, line in progress.slowest if seconds >= _SLOW]
    return [*found, f"  slowest: {', '.join(slow)}"] if slow else found


def final_record(progress: Progress, source: DataSource) -> dict[str, Any]:
    """The summary for a program."""
    errors = [{"error": what, "lines": count, "first": first} for what, count, first in frequent_errors(progress)]
    slowest = [{"line": line, "seconds": round(seconds, 6)} for seconds, line in progress.slowest]
    about = {"succeeded": progress.succeeded, "errors": errors, "slowest": slowest}
    return {**as_record(progress, source), "finished": True, **about}
