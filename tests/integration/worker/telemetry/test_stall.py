"""A worker that is alive and takes nothing, though it could: it says so, and opens its consumers anew."""

from __future__ import annotations

import asyncio
import time

import pytest

from dts.broker.sqlite.consumer import SqliteConsumer
from dts.model.fleet import STALLED
from dts.wire.queues import JOBS_PREFIX
from dts.worker.telemetry import stall
from dts.worker.telemetry.prober import Prober
from dts.worker.telemetry.stall import StallCheck
from dts.worker.worker import Worker
from tests.services.waiting import until, within
from tests.services.worker_bench import Bench, bench, value

__all__ = ["bench"]


async def test_it_is_noticed_reported_and_cured(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(stall, "STALLED_AFTER", 0.2)
    refill = SqliteConsumer.refill
    deaf, deafened = False, set()

    def hear(consumer: SqliteConsumer) -> None:
        if deaf and consumer.queue.startswith(JOBS_PREFIX):  # the test's own consumer of results goes on
            deafened.add(consumer)
        if consumer not in deafened:
            refill(consumer)

    monkeypatch.setattr(SqliteConsumer, "refill", hear)
    async with Worker(bench.settings(heartbeat=0.05), bench.broker) as worker:
        await until(lambda: worker.executor.has_idle_child)
        deaf = True
        await worker.fetch_anew()
        run = await bench.send("text/upper", ["a"])
        check = StallCheck(worker)
        async with within():
            while not (said := await check.check(time.monotonic())):
                await asyncio.sleep(0.01)
        assert said.startswith(f"{STALLED}: children are free, messages wait, nothing taken for ")
        assert caplog.text.count("children are free and 1 messages wait") == 1
        deaf = False  # but those that missed their wake-up wait for it for ever
        async with Prober(worker, bench.broker):
            assert value((await bench.wait(run, 1))[0]) == "A"
        assert await check.check(time.monotonic()) == ""


async def test_a_worker_at_work_an_empty_queue_and_a_prefetch_of_its_own_are_no_stall(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stall, "STALLED_AFTER", 0.0)
    bench.write("own/slow", "import time\ndef main(): time.sleep(1)")
    async with Worker(bench.settings(), bench.broker) as worker:
        await until(lambda: worker.executor.has_idle_child)
        check = StallCheck(worker)
        assert await check.check(time.monotonic()) == "", "nothing waits"
        runs = [await bench.send("own/slow", []) for _ in range(3)]
        await until(lambda: not worker.executor.has_idle_child)
        assert await check.check(time.monotonic()) == "", "no child is free"
        for run in runs:
            await bench.wait(run, 1)
