"""What a worker tells of itself in its heartbeats: what has become of jobs, and which functions cost it children."""

from __future__ import annotations

import asyncio
import logging

import pytest

from dts.wire import dts_pb2
from dts.wire.dts_pb2 import FAILED, Options
from dts.worker.telemetry.prober import Prober
from dts.worker.worker import Worker
from tests.services.waiting import until, within
from tests.services.worker_bench import Bench, bench

__all__ = ["bench"]


def counts(worker: Worker, bench: Bench) -> dict[str, tuple[int, int, int, int]]:
    """Received, done, failed and replaced, by function, as the heartbeat has them."""
    beat = Prober(worker, bench.broker).measure()
    found: dict[str, dts_pb2.EventCounts] = dict(beat.functions)
    return {name: (each.received, each.done, each.failed, each.replaced) for name, each in found.items()}


async def test_an_attempt_that_fails_counts_as_failed_also_when_there_is_another_one(bench: Bench) -> None:
    bench.write("own/f", "def main(n): raise ValueError(n)")
    bench.write("own/die", "import os\ndef main(): os._exit(3)")
    async with Worker(bench.settings(poison_after=2), bench.broker) as worker:
        results = await bench.run("own/f", *([n] for n in range(10)), options=Options(max_attempts=3))
        assert {result.status for result in results} == {FAILED}
        assert counts(worker, bench)["own/f"] == (30, 0, 30, 0)
        await bench.run("own/die", [])
        assert counts(worker, bench)["own/die"] == (2, 0, 2, 0)


async def test_jobs_that_are_given_away_count_where_they_run(bench: Bench) -> None:
    bench.write("own/slow", "import time\ndef main(n): time.sleep(0.1); return n")
    async with (
        Worker(bench.settings(name="one"), bench.broker) as one,
        Worker(bench.settings(name="two"), bench.broker) as two,
    ):
        await bench.run("own/slow", *([n] for n in range(20)))
        await until(lambda: one.idle and two.idle)
        each = [counts(worker, bench)["own/slow"] for worker in (one, two)]
    assert all(received == done for received, done, _, _ in each)
    assert sum(received for received, _, _, _ in each) == 20


async def test_a_replaced_child_is_counted_and_logged_with_what_it_ran(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    bench.write("own/f", "def main(): return 1")
    bench.write("own/g", "def main(n): return n")
    bench.write("own/breaks", "import builtins\ndef main(): builtins.sorted = None")
    async with Worker(bench.settings(recycle_after=3), bench.broker) as worker:
        await bench.run("own/f", [])
        await bench.run("own/g", ["a"], ["b"])
        async with within():
            while "was replaced" not in caplog.text:
                await asyncio.sleep(0.01)
        assert "it has run 3 jobs; it ran own/g (2 jobs), own/f (1 job), last of all own/g" in caplog.text
        assert counts(worker, bench) == {"own/f": (1, 1, 0, 0), "own/g": (2, 2, 0, 1)}
        await bench.run("own/breaks", [])
        await until(lambda: counts(worker, bench)["own/breaks"] == (1, 1, 0, 1))
