"""A worker that can start no child says so, and does not count as alive."""

from __future__ import annotations

import sys
import time

import pytest

from dts.server.daemons.stethoscope import WorkerClocks, read_heartbeat
from dts.wire.queues import HEARTBEATS
from dts.worker.telemetry.prober import Prober
from dts.worker.telemetry.rights import RightsCheck
from dts.worker.worker import Worker
from tests.services.waiting import within
from tests.services.worker_bench import Bench, bench

__all__ = ["bench"]


@pytest.mark.parametrize(
    ("executable", "state", "can_work"), [("/bin/false", "childless", False), ("", "working", True)]
)
async def test_a_worker_that_can_start_no_child_says_so(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, executable: str, state: str, can_work: bool
) -> None:
    monkeypatch.setattr("dts.worker.telemetry.prober._CHILDLESS_AFTER", 0.3)
    monkeypatch.setattr(sys, "executable", executable or sys.executable)
    settings = bench.settings(heartbeat=0.1)
    rights = RightsCheck(bench.broker)
    rights.note = "a note"
    clocks = WorkerClocks()
    async with (
        within(),
        await bench.broker.consume(HEARTBEATS, prefetch=10) as consumer,
        Worker(settings, bench.broker) as worker,
        Prober(worker, bench.broker, rights),
    ):
        while True:
            [delivery] = await consumer.receive(1)
            await consumer.ack([delivery])
            found = read_heartbeat(delivery, time.time(), clocks)
            if found.state == state and (found.children or not can_work):
                break
    assert found.can_work is can_work
    assert found.notes == ("a note",)
