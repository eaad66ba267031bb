"""What both back ends do alike before a database is asked: group, parse, and bound."""

from __future__ import annotations

import json
from bisect import bisect_left
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from dts.errors import BlockTooLate
from dts.model import Candidate, LogEntry, LogFilter, RunState, bitmap, job_id, split_job_id

PAGE_BYTES = 16 * 1024 * 1024
"""Bytes of bodies that `uncollected_parts` gives at once: what a server can hold for each of many clients."""

PLANNED_AT_ONCE = 5000
"""Slices that are read at once of what was planned: tens of milliseconds, in which the next call has to wait."""

_DIGITS = 18  # in a number of a receipt at most: fits in a signed 64-bit integer


def storable(text: str) -> str:
    """`text` as a database can take it: lone surrogates, which are no UTF-8, become backslash escapes.

    No id that may be stored has a backslash, so a lookup of what this returns for them finds nothing.
    """
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def storable_value(value: Any) -> Any:
    """A JSON value with all of its texts storable."""
    if isinstance(value, str):
        return storable(value)
    if isinstance(value, Mapping):
        return {name: storable_value(each) for name, each in value.items()}
    return [storable_value(each) for each in value] if isinstance(value, list | tuple) else value


def check_in_time(run: str, state: str | None, *, finished: bool, brought: bool) -> None:
    """Refuse new blocks of a run that is in that state now, None if there is no such run, if they come too late.

    A closed run takes only the blocks that were `brought` together with it, and none once it has finished: what its
    end says of its jobs must stay true.

    Raises:
        BlockTooLate: they do.
    """
    if state is None:
        raise BlockTooLate(f"run {run} is no longer there: it takes no more blocks")
    if state == RunState.CANCELLED:
        raise BlockTooLate(f"run {run} is cancelled: it takes no more blocks")
    if finished or (state == RunState.CLOSED and not brought):
        raise BlockTooLate(f"run {run} is closed: it takes no more blocks")


def by_block(candidates: Sequence[Candidate]) -> dict[str, list[int]]:
    """The positions in `candidates` of those of each block, in their order."""
    positions: dict[str, list[int]] = {}
    for position, candidate in enumerate(candidates):
        positions.setdefault(storable(candidate.block), []).append(position)
    return positions


async def planned_by_pages(
    after: Mapping[str, int], read: Callable[[Mapping[str, int], int], Awaitable[Sequence[tuple[str, int, int]]]]
) -> dict[str, dict[int, int]]:
    """What `planned_attempts` gives, from a function that reads some slices: block, attempt and jobs, in that order.

    It is given what is left to read, as `after` is, and how many to read: fewer when there are no more, and else on
    from there to the end of the attempt that it has come to.
    """
    planned: dict[str, dict[int, int]] = {}
    left = {storable(block): attempt for block, attempt in after.items()}
    while left:
        found = await read(left, PLANNED_AT_ONCE)
        for block, attempt, jobs in found:
            of_block = planned.setdefault(block, {})
            of_block[attempt] = of_block.get(attempt, 0) | jobs
        if len(found) < PLANNED_AT_ONCE:
            break
        last, reached, _ = found[-1]
        left = {block: attempt for block, attempt in left.items() if block > last} | {last: reached}
    return planned


def parse_receipts(receipts: Iterable[str]) -> dict[int, set[int]]:
    """The part numbers in `receipts` by block number; what is not a receipt is passed over."""
    parts: dict[int, set[int]] = {}
    for receipt in receipts:
        block, _, part = receipt.partition(".")
        if _is_number(block) and _is_number(part):
            parts.setdefault(int(block), set()).add(int(part))
    return parts


def parse_job_ids(job_ids: Iterable[str]) -> dict[str, list[int]]:
    """The numbers of jobs by run, in their order; what is not a job's id is passed over."""
    numbers: dict[str, list[int]] = {}
    for text in job_ids:
        if (parts := split_job_id(text)) is not None:
            numbers.setdefault(parts[0], []).append(parts[1])
    for each in numbers.values():
        each.sort()
    return numbers


def jobs_in_block(numbers: Sequence[int], first: int, count: int) -> int:
    """The bitmap of a block's jobs that have one of these numbers in the run, given in order."""
    start, end = bisect_left(numbers, first), bisect_left(numbers, first + count)
    return bitmap.from_indices(number - first for number in numbers[start:end])


def take_jobs(asked: int, taken: int, parts: Mapping[int, int]) -> tuple[int, list[int]]:
    """Which of the jobs in `asked` can be collected, and the numbers of the parts that are collected as a whole then.

    `parts` are the bitmaps of the uncollected parts by number, `taken` the jobs of theirs that are collected already.
    """
    fresh = 0
    for jobs in parts.values():
        fresh |= asked & jobs & ~taken
    after = taken | fresh
    return fresh, [number for number, jobs in parts.items() if not jobs & ~after]


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= _DIGITS


class Page:
    """How much more of a page of parts may be filled: it is full at `max_jobs` jobs or at PAGE_BYTES."""

    def __init__(self, max_jobs: int) -> None:
        self._jobs = max_jobs
        self._bytes = PAGE_BYTES
        self._empty = True

    def take(self, jobs: int, size: int) -> bool:
        """Whether a part of `jobs` jobs and `size` bytes still goes on the page; the first always does."""
        if not self._empty and (self._jobs <= 0 or self._bytes < size):
            return False
        self._empty = False
        self._jobs -= jobs
        self._bytes -= size
        return True


def job_ids(run: str, first: int, parts: Iterable[int], start: int = 0) -> Iterator[str]:
    """The ids, in order, of the jobs in `parts` that have the number `start` in their run, or a greater one.

    The parts are bitmaps of one block whose first job has the number `first`.
    """
    jobs = 0
    for each in parts:
        jobs |= each
    skipped = max(0, start - first)
    for index in bitmap.indices(jobs >> skipped << skipped):
        yield job_id(run, first + index)


def headers_to_text(headers: Mapping[str, str | int]) -> str:
    """A dead letter's headers as JSON: their names may hold what a database does not allow in the name of a field."""
    return json.dumps(dict(headers), separators=(",", ":"))


def headers_from_text(text: str) -> dict[str, str | int]:
    """The headers that `headers_to_text` was given."""
    headers: dict[str, str | int] = json.loads(text)
    return headers


def counts_to_text(counts: Mapping[int, int]) -> str:
    """Numbers by a job's index as JSON."""
    return json.dumps({str(index): count for index, count in counts.items()}, separators=(",", ":"))


def counts_from_text(text: str) -> dict[int, int]:
    """The numbers that `counts_to_text` was given."""
    return {int(index): count for index, count in json.loads(text).items()}


def storable_entry(entry: LogEntry) -> LogEntry:
    """A log entry whose texts a database can take."""
    return replace(
        entry,
        host=storable(entry.host),
        source=storable(entry.source),
        logger=storable(entry.logger),
        message=storable(entry.message),
        job=storable(entry.job),
    )


def log_conditions(which: LogFilter | None, after: str | None) -> list[tuple[str, str, str | float]]:
    """What log entries must have that match a filter: field, comparison, value."""
    conditions: list[tuple[str, str, str | float]] = []
    if which is not None:
        for field in ("host", "source", "logger", "job"):
            if (text := getattr(which, field)) is not None:
                conditions.append((field, "=", storable(text)))
        for field, sign, number in (
            ("level", ">=", which.level),
            ("time", ">=", which.since),
            ("time", "<", which.until),
        ):
            if number is not None:
                conditions.append((field, sign, number))
    if after is not None:
        conditions.append(("id", "<", storable(after)))
    return conditions


def spacing(rate: float) -> tuple[int, int]:
    """A rate (events a second) as `take_turn` counts it, in nanoseconds: what is between two, and what may be saved up.

    Whole numbers, so that a second's worth is exactly that.
    """
    between = max(1, int(1e9 / rate))
    return between, max(between, 10**9)


def turn(due: int, now: int, rate: float) -> tuple[int, float]:
    """What `take_turn` does at a time, all in nanoseconds: when the next event is due after that, and the answer.

    A `due` further in the future than can be saved up stems from a lower rate, or from a clock that was put back.
    """
    between, saved = spacing(rate)
    due = min(max(due, now), now + saved)
    early = due + between - (now + saved)
    return (due, early / 1e9) if early > 0 else (due + between, 0.0)
