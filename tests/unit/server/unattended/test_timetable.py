"""When schedules fire: over years of four zones as cronsim's own iterator has it, from wherever one looks."""

from __future__ import annotations

import random
from collections.abc import Iterator
from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from cronsim import CronSim

from dts.errors import InvalidInput
from dts.model import Schedule
from dts.server.unattended.timetable import check_timetable, due_time, next_time, next_times

ZONES = ("Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Asia/Kolkata")
"""Two that change their clocks by an hour, one by half an hour on the other half of the year, one never."""

BERLIN = ZoneInfo("Europe/Berlin")


def schedule(**fields: object) -> Schedule:
    return Schedule("nightly", "ann", "text/upper", **fields)  # type: ignore[arg-type]


def expressions(count: int) -> Iterator[str]:
    """Cron expressions of all kinds, the same ones each time."""
    rng = random.Random(1)

    def part(low: int, high: int) -> str:
        first, last = sorted(rng.randint(low, high) for _ in range(2))
        kinds = ["*", f"*/{rng.randint(2, 20)}", str(first), str(first), f"{first}-{last}", f"{first},{last}"]
        return rng.choice(kinds)

    def rarely(low: int, high: int) -> str:
        return part(low, high) if rng.random() < 0.25 else "*"

    for _ in range(count):
        yield f"{part(0, 59)} {part(0, 23)} {rarely(1, 28)} {rarely(1, 12)} {rarely(0, 6)}"


def starts(zone: ZoneInfo) -> Iterator[datetime]:
    """Moments of several years: shortly before each change of the clocks, and some ordinary one."""
    for year in (2025, 2026, 2028):
        moment, offset = datetime(year, 1, 1, tzinfo=zone), None
        yield moment + timedelta(days=50)
        for day in range(365):
            now = datetime(year, 1, 1, tzinfo=zone) + timedelta(days=day)
            if offset is not None and now.utcoffset() != offset:
                yield now - timedelta(days=1, hours=3)
            offset = now.utcoffset()


def test_a_thousand_schedules_fire_as_cronsim_has_it() -> None:
    """Each time is asked for anew, from the one before alone, as by a timekeeper that has just started."""
    begins = {name: list(starts(ZoneInfo(name))) for name in ZONES}
    assert [len(begins[name]) for name in ZONES] == [9, 9, 9, 3]
    for number, expression in enumerate(expressions(1000)):
        name = ZONES[number % 4]
        begin = begins[name][number // 4 % len(begins[name])]
        theirs = CronSim(expression, begin)
        ours, time = schedule(cron=expression, tz=name), begin.timestamp()
        for _ in range(25):
            expected = next(theirs).timestamp()
            assert next_time(ours, time) == expected, (expression, name, datetime.fromtimestamp(time, begin.tzinfo))
            time = expected


def local(times: list[float]) -> list[str]:
    return [datetime.fromtimestamp(time, BERLIN).strftime("%m-%d %H:%M %Z") for time in times]


@pytest.mark.parametrize(
    ("cron", "begin", "fires"),
    [
        ("30 2 * * *", "2026-03-28 12:00", ["03-29 03:00 CEST", "03-30 02:30 CEST"]),
        ("30 2 * * *", "2026-10-24 12:00", ["10-25 02:30 CEST", "10-26 02:30 CET"]),
        ("*/30 2 * * *", "2026-10-24 12:00", ["10-25 02:00 CEST", "10-25 02:30 CEST", "10-25 02:00 CET"]),
        ("0 * * * *", "2026-03-29 01:30", ["03-29 03:00 CEST", "03-29 04:00 CEST"]),
        ("0 0 31 * *", "2026-04-01 00:00", ["05-31 00:00 CEST", "07-31 00:00 CEST"]),
    ],
)
def test_hours_that_are_skipped_and_hours_that_come_twice(cron: str, begin: str, fires: list[str]) -> None:
    after = datetime.fromisoformat(begin).replace(tzinfo=BERLIN).timestamp()
    assert local(next_times(schedule(cron=cron, tz="Europe/Berlin"), after, len(fires))) == fires


def test_no_time_comes_twice_wherever_in_a_repeated_hour_one_begins() -> None:
    begin = datetime(2026, 10, 25, 0, 0, tzinfo=BERLIN).timestamp()
    for cron in ("30 2 * * *", "*/20 * * * *", "15 2,3 * * *"):
        for minute in range(0, 300, 7):
            after = begin + minute * 60
            time = next_time(schedule(cron=cron, tz="Europe/Berlin"), after)
            assert time is not None
            assert time > after


def test_intervals_count_from_when_the_schedule_was_made() -> None:
    every = schedule(every=0.1 * 70, created=1000.0005)
    assert next_times(every, 0.0, 3) == [1007.0, 1014.0, 1021.0]
    time, times = 1000.0, set()
    for _ in range(10_000):
        following = next_time(every, time)
        assert following is not None
        assert following > time
        times.add(following)
        time = following
    assert len(times) == 10_000
    assert next_time(every, time) == next_time(every, time + 3)


def test_once_is_once() -> None:
    once = schedule(at=5000.0)
    assert (next_time(once, 4999.9), next_time(once, 5000.0)) == (5000.0, None)
    assert next_times(once, 0.0, 5) == [5000.0]
    assert next_times(schedule(at=5000.0, paused=True), 0.0, 5) == []


def test_jitter_is_the_same_each_time_and_spreads_schedules() -> None:
    jittered = [Schedule(f"s{number}", "ann", "a/b", every=60.0, jitter=30.0) for number in range(500)]
    first = [due_time(each, 600.0) for each in jittered]
    assert first == [due_time(each, 600.0) for each in jittered]
    assert all(600 <= time < 630 for time in first)
    assert 610 < sum(first) / 500 < 620
    assert len(set(first)) > 450
    assert due_time(jittered[0], 660.0) - 60 != first[0]


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({}, "give one of cron, every and at"),
        ({"cron": "* * * * *", "every": 5.0}, "not cron and every"),
        ({"cron": "0 2 * *"}, "4 fields and not 5"),
        ({"cron": "0 0 2 * * *"}, "6 fields and not 5"),
        ({"cron": "0 24 * * *"}, "Bad hour"),
        ({"cron": "0 0 30 2 *"}, "cannot be read"),
        ({"cron": "0 0 * * *", "tz": "Europe/Bremen"}, "there is no time zone 'Europe/Bremen'"),
        ({"cron": "0 0 * * *", "tz": "../../etc/passwd"}, "there is no time zone"),
        ({"cron": "0 0 * * *", "tz": "Europe"}, "there is no time zone"),
        ({"cron": "0 0 * * *", "tz": ""}, "there is no time zone"),
        ({"at": 500.0}, "at is over already"),
        ({"every": 60.0, "jitter": 60.0}, "jitter must be less than the 60 s"),
    ],
)
def test_what_cannot_be_a_schedule(fields: dict[str, object], problem: str) -> None:
    with pytest.raises(InvalidInput, match=problem):
        check_timetable(schedule(**fields), 1000.0)
