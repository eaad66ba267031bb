"""Events and results that hold nonsense cost a warning, and keep nobody from hearing the next one."""

from __future__ import annotations

import asyncio
from contextlib import AbstractAsyncContextManager

import pytest

from dts.broker import Message
from dts.config import Settings
from dts.server.app import Server
from dts.server.lookup import hub
from dts.server.lookup.hub import Hub
from dts.wire import codec, dts_pb2, queues
from dts.wire.dts_pb2 import FAILED, Progress, ResultBatch
from dts.worker.worker import Worker
from tests.integration.conftest import Site, a_run_with_jobs
from tests.services.waiting import until, within
from tests.services.worker_bench import Bench, bench, value

__all__ = ["bench"]

NAN, INFINITE = float("nan"), float("inf")

NONSENSE = ['{"x.0":[null,null]}', "{", '{"text/upper":[null,false]}', "\0", "[]", ":::", "²-²", "x-" + "9" * 5000]


async def test_no_event_ends_what_listens_to_it(
    site: Site, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(hub, "SWEEP_SECONDS", 3600.0)  # only an event can wake a request
    waits = asyncio.Event()
    waiter = Hub.waiter

    def noticed(self: Hub, run_id: str) -> AbstractAsyncContextManager[asyncio.Event]:
        waits.set()
        return waiter(self, run_id)

    monkeypatch.setattr(Hub, "waiter", noticed)
    topics = [value for name, value in vars(queues).items() if name.startswith("TOPIC_")]
    for topic in topics:
        for payload in NONSENSE:
            await site.broker.broadcast(topic, payload)
    run, _ = await a_run_with_jobs(site, "admin", "text/upper")
    waiting = asyncio.create_task(site.api().send("GET", f"/runs/{run}/results?wait=30"))
    await waits.wait()
    job = dts_pb2.Job(index=0)
    await site.finish(dts_pb2.JobBatch(block=f"{run}-0", run=run, function="text/upper", jobs=[job]))
    async with within():
        assert b"done" in (await waiting).body, "woken by an event"
    assert "died" not in caplog.text
    assert "hub: an event is passed over: ValidationError" in caplog.text


async def test_results_with_nonsense_in_them_spoil_no_event_and_no_speed(site: Site) -> None:
    run, job = await a_run_with_jobs(site, "admin", "text/upper", 2)
    bad = ResultBatch(block=f"{run}-0", run=run, function="text/upper", running=[0, 1])
    bad.progress.extend([Progress(index=0, done=NAN), Progress(index=0, done=1, partials=b"\xff{")])
    bad.progress.append(Progress(index=1, done=3, total=4))
    bad.results.add(index=0, status=FAILED, duration=NAN)
    far = ResultBatch(block=f"{run}-0", run=run, function="text/upper", running=[4_000_000_000])
    await site.broker.publish(queues.RESULTS, [Message(*codec.encode(batch)) for batch in (far, bad)])
    async with within():
        while not (told := (await site.api().call("GET", f"/jobs/{job[:-1]}1")).get("progress")):
            await asyncio.sleep(0.02)
    assert told["done"] == 3
    [letter] = await site.api().call("GET", "/admin/dead/")
    assert "4000000000" in letter["reason"] or "index" in letter["reason"]


async def test_a_server_that_has_lost_a_part_says_so_and_ends(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A supervisor starts it again: that is better than to limp on."""

    async def die(*_: object) -> None:
        raise RuntimeError("no")

    monkeypatch.setattr(Hub, "_consume_events", die)
    async with Server(settings) as server, within():
        await server.failed.wait()


async def test_progress_is_told_by_finite_numbers(bench: Bench) -> None:
    code = "from dts.worker import context\ndef main(done, total): context.progress(float(done), float(total))\n"
    bench.write("own/f", code)
    async with Worker(bench.settings(), bench.broker):
        results = await bench.run("own/f", ["nan", "inf"], ["-1", "0"], ["1", "inf"], ["1", "2"])
    assert [result.error.type for result in results] == ["ValueError", "ValueError", "ValueError", ""]
    assert results[0].error.message.startswith("progress takes finite numbers from 0")


async def test_a_worker_hears_of_cancellations_after_a_bad_event(bench: Bench) -> None:
    bench.write("own/f", "import time\ndef main(): time.sleep(30)\n")
    bench.write("own/g", "def main(): return 1\n")
    async with Worker(bench.settings(cancel_grace=0.1), bench.broker) as worker:
        for payload in NONSENSE:
            await bench.broker.broadcast(queues.TOPIC_CANCELLED, payload)
        run = await bench.send("own/f", [])
        await until(lambda: bool(worker.executor.children and worker.executor.children[0].at_work))
        await bench.broker.broadcast(queues.TOPIC_CANCELLED, run)
        async with within():
            assert value((await bench.run("own/g", []))[0]) == 1
        assert not worker.failed.is_set()
