"""When a schedule fires: the next time after any time, the same whoever asks and however often.

Times are in seconds since the epoch, in whole milliseconds. Nothing here reads a clock.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from datetime import UTC, datetime
from functools import lru_cache
from itertools import islice, pairwise
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError

from dts.errors import InvalidInput
from dts.model import Schedule

CRON_FIELDS = 5
"""Minute, hour, day of month, month, day of week. A field for seconds would make cheap mistakes expensive."""

_SAMPLE = 50
"""Firings that are looked at to learn how close together a schedule's are."""


def next_time(schedule: Schedule, after: float) -> float | None:
    """The first time later than `after` at which a schedule is due, before jitter; None if there is none.

    In the hour that the clocks skip, a cron expression with a fixed time is due when the hour is over; in the hour that
    they repeat, once; one with `*` for the minute or the hour goes by time that passes, as in Debian's cron.
    """
    if schedule.at is not None:
        return _rounded(schedule.at) if _rounded(schedule.at) > after else None
    if schedule.every is not None:
        return _next_interval(schedule.created, schedule.every, after)
    return _next_of_cron(schedule.cron, schedule.tz, after)


def due_time(schedule: Schedule, time: float) -> float:
    """When the firing of that time is carried out: with its jitter, which follows from the schedule and the time."""
    if not schedule.jitter:
        return time
    digest = hashlib.blake2b(f"{schedule.id}\0{time:.3f}".encode(), digest_size=8).digest()
    return _rounded(time + schedule.jitter * int.from_bytes(digest) / 2**64)


def next_times(schedule: Schedule, after: float, count: int) -> list[float]:
    """The next `count` times at which a schedule fires, with jitter; none while it is paused."""
    if schedule.paused:
        return []
    return [due_time(schedule, time) for time in islice(_times_after(schedule, after), count)]


def check_timetable(schedule: Schedule, now: float) -> None:
    """Make sure that a schedule says when it fires, and that it ever does after `now`.

    Raises:
        InvalidInput: what is wrong, and what to write instead.
    """
    given = [name for name in ("cron", "every", "at") if getattr(schedule, name) not in (None, "")]
    if len(given) != 1:
        found = " and ".join(given) if given else "none of them"
        raise InvalidInput(f"give one of cron, every and at, not {found}")
    _zone(schedule.tz)
    if schedule.cron:
        _check_cron(schedule.cron, schedule.tz)
    if next_time(schedule, now) is None:
        raise InvalidInput("at is over already: give a time in seconds since the epoch, in future")
    if schedule.jitter and (gap := _shortest_gap(schedule, now)) <= schedule.jitter:
        raise InvalidInput(f"jitter must be less than the {gap:g} s between two firings, or they would change places")


def gap_after(schedule: Schedule, time: float) -> float:
    """Seconds from one time of a schedule to the next; infinite after the last."""
    following = next_time(schedule, time)
    return math.inf if following is None else following - time


def _times_after(schedule: Schedule, after: float) -> Iterator[float]:
    while (time := next_time(schedule, after)) is not None:
        yield time
        after = time


def _next_interval(start: float, every: float, after: float) -> float:
    number = max(1, math.floor((after - start) / every))
    while _rounded(start + number * every) <= after:
        number += 1
    return _rounded(start + number * every)


def _next_of_cron(expression: str, tz: str, after: float) -> float | None:
    for found in _iterate(expression, tz, after):
        if found > after:  # an iterator that begins in a repeated hour gives its first time once more
            return found
    return None


def _iterate(expression: str, tz: str, after: float) -> Iterator[float]:
    for moment in CronSim(expression, datetime.fromtimestamp(after, _zone(tz))):
        yield moment.timestamp()


def _check_cron(expression: str, tz: str) -> None:
    fields = expression.split()
    if len(fields) != CRON_FIELDS:
        raise InvalidInput(
            f"cron has {len(fields)} fields and not {CRON_FIELDS}: minute hour day month weekday, such as 0 2 * * *"
        )
    try:
        found = _next_of_cron(expression, tz, datetime(2001, 1, 1, tzinfo=UTC).timestamp())
    except CronSimError as error:
        raise InvalidInput(f"cron: {expression[:80]!r} cannot be read: {error}") from error
    if found is None:
        raise InvalidInput(f"cron: {expression[:80]!r} never comes")


def _shortest_gap(schedule: Schedule, now: float) -> float:
    times = list(islice(_times_after(schedule, now), _SAMPLE))
    return min((after - before for before, after in pairwise(times)), default=math.inf)


@lru_cache(maxsize=1000)
def _zone(tz: str) -> ZoneInfo:
    try:
        return ZoneInfo(tz)
    except (OSError, ValueError, KeyError) as error:  # also a folder of zones, such as Europe
        raise InvalidInput(f"tz: there is no time zone {tz[:80]!r}: give one such as Europe/Berlin") from error


def _rounded(time: float) -> float:
    return round(time, 3)
