"""How far a run is, in words and as a record; and what is drawn of it."""

from __future__ import annotations

import sys
import time
from typing import Any

import pytest

from dts.client.command.plot import Chart, bin_of, check_path
from dts.client.command.report import as_record, clock, describe, details, final_record
from dts.client.components import IterableComponent
from dts.client.run.progress import Progress
from dts.errors import ConfigError


@pytest.fixture(autouse=True)
def _after_100_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Progress, "seconds", 100.0)


def progress(**fields: Any) -> Progress:
    return Progress(run="r", lines=1000, succeeded=480, failed=20, **fields)


def half_read() -> IterableComponent:
    source = IterableComponent(())
    source.bytes_read, source.bytes_total = 500, 1000
    return source


def test_a_line_says_how_far_it_is_and_what_it_waits_for() -> None:
    counts = {"running": 8, "queued": 400, "accepted": 90, "delayed": 2, "succeeded": 480}
    said = describe(progress(counts=counts, waiting="a limit"), half_read())
    assert said == "500 of about 2,000 lines, 20 failed, 5/s, 5:00 left, 8 running, 492 waiting: a limit"
    assert describe(progress(all_read=True), half_read()) == "500 of 1,000 lines, 20 failed, 5/s, 1:40 left"
    assert describe(progress(), IterableComponent(())) == "500 lines, 20 failed, 5/s", "a pipe has no known end"
    assert describe(Progress(lines=10, all_read=True), half_read(), "held") == "0 of 10 lines, 0 failed, 0/s: held"


def test_a_record_has_the_same() -> None:
    record = as_record(progress(counts={"running": 8}), half_read(), "over a limit")
    assert (record["done"], record["failed"], record["total"], record["running"]) == (500, 20, 2000, 8)
    assert (record["waiting"], record["why"], round(record["left"])) == (0, "over a limit", 300)
    assert as_record(Progress(), IterableComponent(()))["left"] is None


@pytest.mark.parametrize(("seconds", "text"), [(0.4, "0:00"), (59.6, "1:00"), (3661, "1:01:01"), (90_000, "25:00:00")])
def test_a_duration_is_a_clocks(seconds: float, text: str) -> None:
    assert clock(seconds) == text


def test_the_summary_names_errors_and_the_slowest_lines() -> None:
    done = Progress()
    for line in (9, 4, 7):
        done.note_error("ValueError: no", line)
    done.note_durations([0.0004] * 50, lambda: range(1, 51))
    assert details(done) == ["  3 × ValueError: no (first in line 4)"]
    done.note_durations([0.2, 3.25, 0.0], lambda: [70, 71, 72])
    done.note_durations([1.5], lambda: [80])
    assert details(done)[1] == "  slowest: line 71 (3.2 s), line 80 (1.5 s), line 70 (0.2 s)"
    record = final_record(done, IterableComponent(()))
    assert record["finished"] is True
    assert record["errors"] == [{"error": "ValueError: no", "lines": 3, "first": 4}]
    assert [each["line"] for each in record["slowest"]][:3] == [71, 80, 70]
    assert len(record["slowest"]) == 5


# the picture


class FakeFigure:
    """Stands for matplotlib's, which is not installed where tests run."""


@pytest.fixture
def chart(monkeypatch: pytest.MonkeyPatch) -> Chart:
    monkeypatch.setattr("dts.client.command.plot._load_figure", lambda: FakeFigure)
    return Chart("out.png")


def test_a_chart_counts_lines_by_time_and_duration_in_bounded_memory(
    chart: Chart, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [time.monotonic()]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    for _ in range(20_000):
        now[0] += 1.0
        chart.record([0.001, 0.02], 1)
    assert sum(chart.done.values()) == 60_000
    assert sum(chart.failed.values()) == 20_000
    assert max(len(chart.done), len(chart.failed)) <= 2000
    assert max(chart.done) * chart.interval == pytest.approx(20_000, rel=0.01)
    assert dict(chart.durations) == {-30: 20_000, -17: 20_000}


def test_durations_are_told_apart_ten_for_each_power_of_ten() -> None:
    assert [bin_of(seconds) for seconds in (0.0, 1e-9, 1e-6, 0.5, 1.0, 9.9, 100.0)] == [-60, -60, -60, -4, 0, 9, 20]


def test_without_matplotlib_it_is_said_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ConfigError, match=r"pip install 'dts-scheduler\[plot\]'"):
        Chart("out.png")


def test_a_picture_is_a_png_or_an_svg() -> None:
    assert check_path("a/b.SVG") == "a/b.SVG"
    with pytest.raises(ConfigError, match=r"'out.pdf' is neither a .png nor an .svg"):
        check_path("out.pdf")
