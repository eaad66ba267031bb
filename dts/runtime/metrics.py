"""The figures of a process, in the format of Prometheus. docs/operations.md has the list of them.

No label grows with users, jobs, runs or hosts: what is labelled by function is bounded by the functions there are.
"""

from __future__ import annotations

import asyncio
import time
from bisect import bisect_left
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from itertools import accumulate
from typing import Any

from prometheus_client import REGISTRY, Counter, Histogram
from prometheus_client.metrics_core import HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

CALL_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Upper bounds for round trips: an fsync takes a few milliseconds, and seconds are worth an alert."""

JOB_SECONDS = (0.001, 0.01, 0.1, 1.0, 10.0, 60.0, 600.0, 3600.0, 86400.0)
"""Upper bounds for jobs, which take microseconds or days."""


class BulkHistogram(Collector):
    """A histogram that takes many values at once. The one of prometheus_client takes a lock for each."""

    def __init__(self, name: str, documentation: str, labels: Sequence[str], bounds: Sequence[float]) -> None:
        self._name, self._documentation, self._labels = name, documentation, tuple(labels)
        self._bounds = tuple(bounds)
        self._counts: dict[tuple[str, ...], list[int]] = {}
        self._sums: dict[tuple[str, ...], float] = {}
        REGISTRY.register(self)

    def observe(self, labels: tuple[str, ...], values: Iterable[float]) -> None:
        """Count values."""
        counts = self._counts.setdefault(labels, [0] * (len(self._bounds) + 1))
        total = 0.0
        for value in values:
            counts[bisect_left(self._bounds, value)] += 1
            total += value
        self._sums[labels] = self._sums.get(labels, 0.0) + total

    def collect(self) -> Iterator[Metric]:
        """All that was counted."""
        family = HistogramMetricFamily(self._name, self._documentation, labels=self._labels)
        bounds = [*map(str, self._bounds), "+Inf"]
        for labels, counts in list(self._counts.items()):
            buckets = list(zip(bounds, accumulate(counts), strict=True))
            family.add_metric(labels, buckets=buckets, sum_value=self._sums.get(labels, 0.0))
        yield family

    def describe(self) -> Iterator[Metric]:
        """What it gives, so that two of one name are refused."""
        yield HistogramMetricFamily(self._name, self._documentation, labels=self._labels)


_CALLS = {
    kind: (
        Histogram(f"dts_{kind}_call_duration_seconds", f"Calls of the {kind}.", ["call"], buckets=CALL_SECONDS),
        Counter(f"dts_{kind}_errors", f"Calls of the {kind} that failed, by the kind of error.", ["call", "error"]),
    )
    for kind in ("store", "broker")
}

STORE_CALLS = (
    *("record", "add_blocks", "get_block", "get_outcome", "get_run", "add_run", "update_run", "mark_published"),
    *("uncollected_parts", "collect", "run_statistics", "user_statistics", "use_nonce", "get_user", "get_function"),
    *("claim_delayed", "add_delayed", "save_heartbeats", "add_logs", "append_operation", "ping"),
)
"""The calls of a store that are timed: those on the way of a job, and some of each daemon's."""

BROKER_CALLS = ("publish", "depth", "broadcast", "ping")
"""The calls of a broker that are timed; a receive waits for work."""


def time_calls(target: object, kind: str, calls: Iterable[str]) -> None:
    """Measure some methods of a store or a broker from here on: how long they take, and how often they fail."""
    for call in calls:
        setattr(target, call, _timed(target, kind, call))


def _timed(target: object, kind: str, call: str) -> Callable[..., Awaitable[Any]]:
    histogram, errors = _CALLS[kind]
    duration = histogram.labels(call)
    wrapped = vars(target).get(call)

    def method(*args: Any, **kwargs: Any) -> Awaitable[Any]:
        """Look the method up when it is called, as any call does."""
        found: Awaitable[Any] = getattr(type(target), call)(target, *args, **kwargs)
        return found

    if wrapped is not None:
        method = wrapped

    async def measured(*args: Any, **kwargs: Any) -> Any:
        began = time.perf_counter()
        try:
            return await method(*args, **kwargs)
        except asyncio.CancelledError:
            raise
        except Exception as error:
            errors.labels(call, type(error).__name__).inc()
            raise
        finally:
            duration.observe(time.perf_counter() - began)

    return measured
