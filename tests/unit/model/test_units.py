"""Durations and sizes as people write them."""

from __future__ import annotations

import pytest

from dts.errors import InvalidInput
from dts.model.units import parse_bytes, parse_seconds, show_bytes, show_seconds


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90", 90),
        ("0.25", 0.25),
        ("1e3", 1000),
        ("1m", 60),
        ("1m30s", 90),
        ("1h 30m", 5400),
        ("500ms", 0.5),
        ("12µs", 12e-6),
        ("1.5H", 5400),
        ("2d", 172800),
        ("1min", 60),
    ],
)
def test_durations(text: str, seconds: float) -> None:
    assert parse_seconds(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "m", "1 2", "1x", "1m30", "nan", "inf", "1e999", "--1s", "1mm", "9" * 400])
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(InvalidInput, match="is no duration: write seconds, or 500ms"):
        parse_seconds(text)


@pytest.mark.parametrize(
    ("text", "size"),
    [("512", 512), ("512MB", 512_000_000), ("1.5GiB", 3 << 29), ("64k", 65536), ("1 kB", 1000), ("2G", 2 << 30)],
)
def test_sizes(text: str, size: int) -> None:
    assert parse_bytes(text) == size


@pytest.mark.parametrize("text", ["", "MB", "1x", "-1", "1 2", "nan"])
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(InvalidInput, match="is no size: write bytes, or 512MB"):
        parse_bytes(text)


def test_they_are_shown_in_a_unit_that_suits_them() -> None:
    shown = [show_seconds(each) for each in (0, 2e-8, 12.4e-6, 0.0015, 2, 59.94, 60, 3661, 90_000, -90)]
    short, long = ["0 s", "0.02 µs", "12.4 µs", "1.5 ms", "2 s", "59.9 s"], ["1 min", "1 h 1 min", "1 d 1 h"]
    assert shown == [*short, *long, "-1 min 30 s"]
    sizes = [show_bytes(each) for each in (0, 999, 1000, 512_000_000, 2.5e12)]
    assert sizes == ["0 B", "999 B", "1 kB", "512 MB", "2.5 TB"]
