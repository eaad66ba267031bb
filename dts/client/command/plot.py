"""`--plot FILE`: throughput over time and the distribution of durations, drawn by matplotlib when the run has ended."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from dts.errors import ClientError, ConfigError

SUFFIXES = (".png", ".svg")

_MOST_INTERVALS = 2000  # of time; twice as wide ones take their place when there are more
_BINS_A_DECADE = 10
_SHORTEST = 1e-6  # seconds; what took less counts as that


class Chart:
    """Counts lines by when they came and how long they took; memory does not grow with the run.

    Raises:
        ConfigError: matplotlib is not installed.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self.interval = 0.25  # seconds
        self.done: Counter[int] = Counter()
        self.failed: Counter[int] = Counter()
        self.durations: Counter[int] = Counter()
        self._figure = _load_figure()
        self._began = time.monotonic()

    def record(self, durations: Sequence[float], failed: int) -> None:
        """Count lines whose results have come just now."""
        now = int((time.monotonic() - self._began) / self.interval)
        self.done[now] += len(durations) + failed
        if failed:
            self.failed[now] += failed
        self.durations.update(map(bin_of, durations))
        if now >= _MOST_INTERVALS:
            self._widen()

    def _widen(self) -> None:
        self.interval *= 2
        for counts in (self.done, self.failed):
            halved = Counter[int]()
            for index, count in counts.items():
                halved[index // 2] += count
            counts.clear()
            counts.update(halved)

    def draw(self, title: str) -> None:
        """Draw both into the file.

        Raises:
            ClientError: it cannot be written.
        """
        figure = self._figure(figsize=(9, 6), layout="constrained")
        figure.suptitle(title)
        over_time, distribution = figure.subplots(2, 1)
        self._draw_throughput(over_time)
        self._draw_durations(distribution)
        try:
            figure.savefig(self.path)
        except OSError as error:
            raise ClientError(f"cannot write {self.path}: {error.strerror}") from error

    def _draw_throughput(self, axes: Any) -> None:
        last = max(self.done, default=0)
        times = [index * self.interval for index in range(last + 1)]
        for counts, label in ((self.done, "all lines"), (self.failed, "failed")):
            if counts:
                rates = [counts.get(index, 0) / self.interval for index in range(last + 1)]
                axes.plot(times, rates, drawstyle="steps-post", label=label)
        axes.set(xlabel="seconds since the run began", ylabel="lines a second", ylim=(0, None))
        axes.legend()

    def _draw_durations(self, axes: Any) -> None:
        edges = [10 ** (index / _BINS_A_DECADE) for index in self.durations]
        widths = [edge * (10 ** (1 / _BINS_A_DECADE) - 1) for edge in edges]
        axes.bar(edges, list(self.durations.values()), widths, align="edge")
        axes.set(xlabel="duration of a line in seconds", ylabel="lines that succeeded", xscale="log")


def bin_of(duration: float) -> int:
    """The number of the interval that a duration falls into, ten for each power of ten."""
    return math.floor(math.log10(max(duration, _SHORTEST)) * _BINS_A_DECADE)


def check_path(path: str) -> str:
    """The name of a file to draw into, as it is.

    Raises:
        ConfigError: it does not say which kind of picture it is to be.
    """
    if Path(path).suffix.lower() not in SUFFIXES:
        raise ConfigError(f"{path!r} is neither a .png nor an .svg")
    return path


def _load_figure() -> Any:
    try:
        return import_module("matplotlib.figure").Figure
    except ImportError as error:
        raise ConfigError(f"--plot needs matplotlib: pip install 'dts-scheduler[plot]' ({error})") from error
