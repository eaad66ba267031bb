"""Heartbeats and logs: kept and listed."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dts.broker import Broker, Message, open_broker
from dts.config import Settings, load_settings
from dts.model import WorkerState
from dts.server.daemons import Daemon, Logtracer, Stethoscope
from dts.server.lookup.fleet import Fleet
from dts.store import Store, open_store
from dts.wire import dts_pb2, queues
from tests.integration.conftest import Site, a_run_with_jobs
from tests.services.waiting import within


@asynccontextmanager
async def running(tmp_path: Path, *kinds: type[Daemon], **daemons: object) -> AsyncIterator[tuple[Store, Broker]]:
    """Daemons with a store and a broker of their own."""
    settings: Settings = load_settings(None, environment={}, flags={"daemons": daemons})
    async with AsyncExitStack() as stack:
        store = await stack.enter_async_context(open_store(f"sqlite:///{tmp_path}/store.db"))
        broker = await stack.enter_async_context(open_broker(f"sqlite:///{tmp_path}/queue.db"))
        for kind in kinds:
            await stack.enter_async_context(kind(store, broker, settings))
        yield store, broker


async def beat(broker: Broker, worker: str = "a-1", *, age: float = 0.0, **fields: Any) -> None:
    """A heartbeat, `age` seconds old, of a host that is well, but for what is said."""
    fields.setdefault("time", time.time() - age)
    fields.setdefault("uptime", 10_000 + time.monotonic() - age)
    fields.setdefault("state", "working")
    heartbeat = dts_pb2.Heartbeat(worker=worker, host=worker[0], routes=["default"], **fields)
    await broker.publish(queues.HEARTBEATS, [Message(heartbeat.SerializeToString())])


async def introduce(store: Store, broker: Broker, *workers: str) -> None:
    """Have workers known to a stethoscope, which tells by that how old later heartbeats are, and by nothing else."""
    for worker in workers:
        await beat(broker, worker)
    async with within():
        while len(await store.list_heartbeats()) < len(workers):
            await asyncio.sleep(0.01)
    await store.drop_heartbeats(time.time() + 1)


async def test_a_host_whose_clock_is_wrong_is_alive_and_its_times_are_put_right(
    tmp_path: Path,
) -> None:
    async with running(tmp_path, Stethoscope, silence=20) as (store, broker):
        job = dts_pb2.RunningJob(job="j", function="n/f")
        began = {}
        for worker, ahead in (("a-1", -7200.0), ("b-1", 7200.0)):
            theirs = time.time() + ahead
            job.started, began[worker] = theirs - 5, theirs - 60
            await beat(broker, worker, time=theirs, started=began[worker], running=[job])
        async with within():
            while len(states := await store.list_heartbeats()) < 2:
                await asyncio.sleep(0.01)
        now = time.time()
        for state, ahead in zip(states, (-7200.0, 7200.0), strict=True):
            assert 0 <= now - state.time < 60
            assert 60 <= now - state.started < 120
            assert 5 <= now - state.running[0]["started"] < 65
            assert abs(state.ahead - ahead) < 60
        await store.drop_heartbeats(now + 1)
        await beat(
            broker, "a-1", age=40, started=began["a-1"], time=now + 300
        )  # it waited in the queue, while its clock was set
        async with within():
            while not (states := await store.list_heartbeats()):
                await asyncio.sleep(0.01)
        assert 39 < time.time() - states[0].time < 100


async def test_log_records_are_kept_once(tmp_path: Path) -> None:
    async with running(tmp_path, Logtracer) as (store, broker):
        records = [
            dts_pb2.LogRecord(host="a", source="worker", time=time.time(), level=level, logger="x", message=f"m{n}")
            for n, level in enumerate((30, 40, 50))
        ]
        bodies = [Message(record.SerializeToString()) for record in records]
        await broker.publish(queues.LOGS, [*bodies, Message(b"\xff"), bodies[0]])
        async with within():
            while len(await store.list_logs()) < 3:
                await asyncio.sleep(0.01)
        await broker.publish(queues.LOGS, [Message(dts_pb2.LogRecord(message="last").SerializeToString())])
        async with within():
            while "last" not in (kept := [entry.message for entry in await store.list_logs()]):
                await asyncio.sleep(0.01)
    assert sorted(kept) == ["last", "m0", "m1", "m2"]


async def test_without_a_mail_server_it_is_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with running(tmp_path, Logtracer, Stethoscope, log_mail_interval=0.0, alert_interval=0.02) as (_, broker):
        record = dts_pb2.LogRecord(host="a", level=50, message="on fire")
        await broker.publish(queues.LOGS, [Message(record.SerializeToString())])
        async with within():
            while "CRITICAL on a: on fire" not in caplog.text:
                await asyncio.sleep(0.02)


async def test_hosts_and_logs_are_listed_for_administrators(site: Site) -> None:
    api = site.api()
    await beat(site.broker, "a-1", cpu_percent=12.5)
    await beat(site.broker, "b-1")
    record = dts_pb2.LogRecord(host="a", source="worker", time=50.0, level=40, logger="x", message="no", job="j-1")
    await site.broker.publish(queues.LOGS, [Message(record.SerializeToString())])
    async with within():
        while len(hosts := await api.call("GET", "/admin/hosts/")) < 2 or not await api.call("GET", "/admin/logs/"):
            await asyncio.sleep(0.02)
    assert [(host["host"], host["cpu"], host["routes"]) for host in hosts] == [
        ("a", 12.5, ["default"]),
        ("b", 0.0, ["default"]),
    ]
    [entry] = await api.call("GET", "/admin/logs/?level=40&job=j-1")
    assert (entry["message"], entry["time"]) == ("no", 50.0)
    assert await api.call("GET", "/admin/logs/?level=50") == []
    bob = await site.add_user("bob")
    await bob.refused("GET", "/admin/hosts/", status=403, code="forbidden")


async def test_anybodys_jobs_are_cancelled_by_an_administrator(site: Site) -> None:
    bob = await site.add_user("bob", namespaces=("text",))
    job = await bob.call("POST", "/jobs/", {"function": "text/upper"}, status=201)
    api = site.api()
    await api.refused("DELETE", "/admin/jobs/", status=400, code="argument_missing")
    assert await api.call("DELETE", "/admin/jobs/?user=bob") == {"cancelled": 1, "runs": 1}
    assert (await bob.call("GET", f"/jobs/{job}"))["state"] == "cancelled"
    [entry, _] = await api.call("GET", "/admin/operations/?op_type=jobs.cancel")
    assert entry["ops"] == {"user": "bob", "function": None}


async def test_a_job_that_waits_for_a_stalled_worker_says_that_nobody_serves_its_route(site: Site) -> None:
    state = "stalled: children are free, messages wait, nothing taken for 42 s"
    stalled = WorkerState("a-1", "a", time.time(), routes=("default",), state=state)
    await site.store.save_heartbeats([stalled])
    found = await site.api().call("GET", "/admin/diagnosis")
    assert found["workers"]["stalled"] == [f"a-1 on a: {state}"]
    assert (found["workers"]["live"], found["workers"]["childless"]) == (0, [])
    _, job = await a_run_with_jobs(site, "admin", "text/upper")
    assert (await site.api().call("GET", f"/jobs/{job}"))["unserved_route"] == "default"
    await site.store.save_heartbeats([replace(stalled, time=time.time(), state="working")])
    assert await Fleet(site.store).serves("default")


async def test_a_worker_that_has_ended_serves_nothing(site: Site) -> None:
    ended = {"routes": ("default",), "state": "ended"}
    await site.store.save_heartbeats([WorkerState("a-1", "a", time.time(), **ended)])  # type: ignore[arg-type]
    [host] = await site.api().call("GET", "/admin/hosts/")
    assert host["state"] == "ended"
    found = await site.api().call("GET", "/admin/diagnosis")
    assert (found["workers"]["live"], found["workers"]["silent"]) == (0, [])
    assert all(route["workers"] == 0 for route in found["routes"])
    assert not await Fleet(site.store).serves("default")
