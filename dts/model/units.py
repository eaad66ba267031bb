"""Durations and sizes as people write and read them: `1m30s`, `512MB`, `12 µs`."""

from __future__ import annotations

import math
import re

from dts.errors import InvalidInput

_SECONDS = {"us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "min": 60.0}
_SECONDS |= {"h": 3600.0, "d": 86400.0, "w": 604800.0}
_BYTES: dict[str, int] = {"": 1, "b": 1} | {
    unit: int(base**power)
    for power, letter in enumerate("kmgt", 1)
    for unit, base in ((letter, 1024), (f"{letter}b", 1000), (f"{letter}ib", 1024))
}
_NUMBER = r"(\d+(?:\.\d*)?|\.\d+)"
_DURATION = re.compile(rf"(?:{_NUMBER}\s*(us|µs|ms|s|min|m|h|d|w)\s*)+", re.IGNORECASE)
_PART = re.compile(rf"{_NUMBER}\s*([a-zµ]+)", re.IGNORECASE)
_SIZE = re.compile(rf"{_NUMBER}\s*([a-z]*)", re.IGNORECASE)

SECONDS_HINT = "seconds, or 500ms, 30s, 5m, 1h30m, 2d"
BYTES_HINT = "bytes, or 512MB (1000²), 1.5GiB (1024³)"


def parse_seconds(text: str) -> float:
    """Seconds: a number of them, or numbers with units that are added up.

    Raises:
        InvalidInput: it is neither, or not finite.
    """
    try:
        seconds = float(text)
    except ValueError:
        if not _DURATION.fullmatch(text.strip()):
            raise InvalidInput(f"{text[:60]!r} is no duration: write {SECONDS_HINT}") from None
        seconds = math.fsum(float(number) * _SECONDS[unit.lower()] for number, unit in _PART.findall(text))
    if not math.isfinite(seconds):
        raise InvalidInput(f"{text[:60]!r} is no duration: write {SECONDS_HINT}")
    return int(seconds) if seconds.is_integer() else seconds


def parse_bytes(text: str) -> int:
    """Bytes: a number of them, or a number with a unit. KB, MB… are powers of 1000; K, KiB, M, MiB… of 1024.

    Raises:
        InvalidInput: it is neither.
    """
    match = _SIZE.fullmatch(text.strip())
    if match is None or match[2].lower() not in _BYTES:
        raise InvalidInput(f"{text[:60]!r} is no size: write {BYTES_HINT}")
    return round(float(match[1]) * _BYTES[match[2].lower()])


def show_seconds(seconds: float) -> str:
    """A duration in three digits and the unit that suits it: `12 µs`, `1.5 s`, `2 h 5 min`."""
    if abs(seconds) >= 60.0:
        return _show_long(round(seconds))
    for unit, size in (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6)):
        if abs(seconds) >= size:
            return f"{seconds / size:.3g} {unit}"
    return "0 s" if seconds == 0 else f"{seconds / 1e-6:.2g} µs"


def _show_long(seconds: int) -> str:
    """The two largest units of a duration of a minute or more."""
    sign, seconds = ("-", -seconds) if seconds < 0 else ("", seconds)
    for large, size, small, part in (("d", 86400, "h", 3600), ("h", 3600, "min", 60), ("min", 60, "s", 1)):
        if seconds >= size:
            rest = seconds % size // part
            return f"{sign}{seconds // size} {large}" + (f" {rest} {small}" if rest else "")
    return f"{sign}{seconds} s"


def show_bytes(size: float) -> str:
    """A size in three digits and the unit that suits it, by powers of 1000: `512 MB`."""
    for unit, base in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if abs(size) >= base:
            return f"{size / base:.3g} {unit}"
    return f"{size:.0f} B"
