"""What callers ask of attempts, and what they are told of jobs that wait."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from dts.broker import Message
from dts.model import Function, WorkerState
from dts.wire import codec, dts_pb2, queues
from tests.integration.conftest import Api, Site
from tests.services.waiting import within


async def state_becomes(api: Api, job: str, state: str) -> Any:
    """The job as it is told once it is in a state."""
    async with within():
        while (seen := await api.call("GET", f"/jobs/{job}"))["state"] != state:
            await asyncio.sleep(0.02)
    return seen


async def say(site: Site, batch: dts_pb2.JobBatch, **fields: Any) -> None:
    news = dts_pb2.ResultBatch(block=batch.block, run=batch.run, function=batch.function, worker="w", **fields)
    await site.broker.publish(queues.RESULTS, [Message(*codec.encode(news))])


async def test_a_jobs_options_reach_the_worker(site: Site) -> None:
    api = site.api()
    plain = {"function": "text/upper"}
    asked = {"timeout": 5, "soft_timeout": 2.5, "max_attempts": 4, "retry_on": ["OSError"], "memory_limit": 2**30}
    await api.call("POST", "/jobs/", [plain, {**plain, **asked}, {**plain, "timeout": 9000}], status=201)
    batches = await site.take_messages(3)
    jobs = {job.index: (job.options, batch.lease) for batch in batches for job in batch.jobs}
    assert jobs[1][0] == dts_pb2.Options(**asked)
    assert jobs[2] == (dts_pb2.Options(timeout=9000), True)
    assert not jobs[0][0].HasField("timeout")


async def test_a_runs_options_are_in_each_of_its_messages_and_change_no_repeat(site: Site) -> None:
    api = site.api()
    run = await api.call("POST", "/runs/", {"function": "text/upper", "max_attempts": 7}, status=201)
    path = f"/runs/{run['id']}/blocks/0"
    assert (await api.send("PUT", path, b"{}\n{}\n")).code == 201
    assert (await api.send("PUT", path, b"{}\n{}\n")).code == 200
    [batch] = await site.take_messages(2)
    assert batch.options.max_attempts == 7
    mine = dts_pb2.JobBatch(options=dts_pb2.Options(timeout=1), jobs=[dts_pb2.Job(index=0)])
    answer = await api.send("PUT", path, mine.SerializeToString(), Content_Type="application/x-protobuf")
    assert answer.code == 400
    assert b"options" in answer.body
    answer = await api.send("PUT", f"/runs/{run['id']}/blocks/1", b'{"args": [], "timeout": 5}\n')
    assert answer.code == 400


@pytest.mark.parametrize(
    ("params", "words"),
    [
        ({"timeout": 0}, "timeout"),
        ({"timeout": 1, "soft_timeout": 2}, "soft_timeout must be less than timeout"),
        ({"max_attempts": 1000}, "max_attempts"),
        ({"deadline": 1000}, "deadline is over already"),
        ({"not_before": "tomorrow"}, "not_before"),
        ({"retries": 3}, "retries"),
    ],
)
async def test_options_that_make_no_sense_are_refused(site: Site, params: dict[str, Any], words: str) -> None:
    for path in ("/jobs/", "/runs/"):
        full = {"function": "text/upper", **params}
        assert words in await site.api().refused("POST", path, full, status=400, code="argument_invalid")


async def test_a_job_with_a_time_waits_for_it(site: Site) -> None:
    api = site.api()
    due = round(time.time() + 1.0, 3)
    now, later = await api.call(
        "POST", "/jobs/", [{"function": "text/upper"}, {"function": "text/upper", "not_before": due}], status=201
    )
    seen = await api.call("GET", f"/jobs/{later}")
    assert (seen["state"], seen["due"]) == ("delayed", due)
    assert (await api.call("GET", "/jobs/"))["statistics"]["delayed"] == 1
    await site.take_messages(1)
    assert time.time() < due
    await site.take_messages(1)
    assert time.time() >= due
    await state_becomes(api, later, "queued")
    assert (await api.call("GET", f"/jobs/{now}"))["state"] == "queued"


async def test_a_run_with_a_time_and_a_deadline_says_so(site: Site) -> None:
    api = site.api()
    due = round(time.time() + 1000, 3)
    params = {"function": "text/upper", "not_before": due, "deadline": due + 5}
    run = await api.call("POST", "/runs/", params, status=201)
    assert (run["not_before"], run["deadline"]) == (due, due + 5)
    await api.send("PUT", f"/runs/{run['id']}/blocks/0", b"{}\n")
    assert (await api.call("GET", f"/runs/{run['id']}"))["statistics"]["delayed"] == 1
    block = await site.store.get_block(f"{run['id']}-0")
    assert block is not None
    assert (block.not_before, block.deadline) == (due, due + 5)
    assert (await api.call("DELETE", f"/runs/{run['id']}"))["statistics"]["cancelled"] == 1


async def test_a_job_that_is_tried_again_says_why_and_when(site: Site) -> None:
    api = site.api()
    job = await api.call("POST", "/jobs/", {"function": "text/upper"}, status=201)
    [batch] = await site.take_messages(1)
    error = dts_pb2.Error(type="OSError", message="the moon is in the way", traceback="…")
    result = dts_pb2.Result(index=0, status=dts_pb2.RETRY, delay=1.0, error=error, attempt=1)
    await say(site, batch, results=[result])
    seen = await state_becomes(api, job, "delayed")
    assert (seen["attempt"], seen["error"]["message"]) == (2, "the moon is in the way")
    assert 0 < seen["due"] - time.time() < 2
    [batch] = await site.take_messages(1)
    assert batch.jobs[0].attempt == 2
    await state_becomes(api, job, "queued")
    result = dts_pb2.Result(index=0, status=dts_pb2.SUCCEEDED, value=b'"x"', attempt=2, partials=b"[1,2]")
    await say(site, batch, results=[result])
    done = await api.call("GET", f"/jobs/{job}?wait=10")
    assert (done["state"], done["attempt"], done["partials"]) == ("succeeded", 2, [1, 2])


async def test_a_running_job_tells_how_far_it_is(site: Site) -> None:
    api = site.api()
    job = await api.call("POST", "/jobs/", {"function": "text/upper"}, status=201)
    [batch] = await site.take_messages(1)
    await say(site, batch, running=[0], progress=[dts_pb2.Progress(index=0, done=3, total=10)])
    seen = await state_becomes(api, job, "running")
    async with within():
        while "progress" not in seen:
            seen = await api.call("GET", f"/jobs/{job}")
    assert seen["progress"] == {"done": 3, "total": 10}


async def test_a_running_job_shows_what_it_has_yielded(site: Site) -> None:
    api = site.api()
    jobs = await api.call("POST", "/jobs/", [{"function": "text/upper"}] * 4, status=201)
    batch = dts_pb2.JobBatch()
    for each in await site.take_messages(4):
        batch.MergeFrom(each)
    yielded = [b'["%d", {"a": [1, null]}, "%s"]' % (n, b"x" * 2000) for n in range(4)]
    progress = [dts_pb2.Progress(index=n, partials=each) for n, each in enumerate(yielded)]
    await say(site, batch, running=range(4), progress=progress)
    for n, job in enumerate(jobs):
        seen = await state_becomes(api, job, "running")
        async with within():
            while "partials" not in seen:
                seen = await api.call("GET", f"/jobs/{job}")
        assert seen["partials"] == [str(n), {"a": [1, None]}, "x" * 2000]
        assert "progress" not in seen, "it has not said how far it is"


async def test_a_job_under_a_lease_runs(site: Site) -> None:
    api = site.api()
    job = await api.call("POST", "/jobs/", {"function": "text/upper", "timeout": 7200}, status=201)
    [batch] = await site.take_messages(1)
    await say(site, batch, claims=[dts_pb2.Claim(index=0, fence=1, seconds=60)])
    await state_becomes(api, job, "running")
    assert (await api.call("DELETE", f"/jobs/{job}"))["state"] == "cancelled"
    assert await site.store.list_leases([batch.block]) == []


async def test_ones_own_jobs_are_cancelled_by_function_or_all(site: Site) -> None:
    api = site.api()
    upper = await api.call("POST", "/jobs/", [{"function": "text/upper"}] * 3, status=201)
    other = await api.call("POST", "/jobs/", {"function": "text/reverse"}, status=201)
    await api.refused("DELETE", "/jobs/", status=400, code="argument_missing")
    assert await api.call("DELETE", "/jobs/?function=text/upper") == {"cancelled": 3, "runs": 1}
    assert (await api.call("GET", f"/jobs/{upper[1]}"))["state"] == "cancelled"
    assert (await api.call("GET", f"/jobs/{other}"))["state"] != "cancelled"
    bob = await site.add_user("bob")
    assert await bob.call("DELETE", "/jobs/?all=true") == {"cancelled": 0, "runs": 0}
    assert await api.call("DELETE", "/jobs/?all=true") == {"cancelled": 1, "runs": 1}


async def test_jobs_for_a_route_that_nobody_serves_are_seen_as_such(site: Site) -> None:
    api = site.api()
    await site.store.add_function(Function("text/far", route="far"))
    run = await api.call("POST", "/runs/", {"function": "text/far"}, status=201)
    await api.send("PUT", f"/runs/{run['id']}/blocks/0", b"{}\n")
    await site.take_messages(1, route="far")

    async def unserved() -> Any:
        async with within():
            while (seen := await api.call("GET", f"/runs/{run['id']}"))["statistics"]["queued"] == 0:
                await asyncio.sleep(0.02)
        return seen.get("unserved_route")

    assert await unserved() is None, "nothing is known of any worker"
    await site.store.save_heartbeats([WorkerState("w", "h", time.time(), routes=("default",))])
    async with within():
        while await unserved() != "far":
            await asyncio.sleep(0.1)
    assert (await api.call("GET", f"/jobs/{run['id']}-0"))["unserved_route"] == "far"
    await site.store.save_heartbeats([WorkerState("v", "h", time.time(), routes=("far",))])
    async with within():
        while await unserved() is not None:
            await asyncio.sleep(0.1)
    assert "unserved_route" not in await api.call("GET", f"/jobs/{run['id']}-0")


async def test_jobs_on_a_route_that_their_function_has_left_are_seen_as_such(site: Site) -> None:
    api = site.api()
    await site.store.save_heartbeats([WorkerState("w", "h", time.time(), routes=("default",))])
    function = "/admin/functions/text%2Fupper"
    await api.call("PATCH", function, {"route": "special"})
    job = await api.call("POST", "/jobs/", {"function": "text/upper"}, status=201)

    async def seen(route: str | None) -> None:
        async with within():
            while (await api.call("GET", f"/jobs/{job}")).get("unserved_route") != route:
                await asyncio.sleep(0.05)

    async def left() -> list[Any]:
        found = await api.call("GET", "/admin/diagnosis")
        return [(each["route"], each["functions"], each["workers"]) for each in found["routes"] if each["left"]]

    await seen("special")
    assert await left() == []
    await api.call("PATCH", function, {"route": "default"})
    await seen("special")
    assert await left() == [("special", ["text/upper"], 0)]
    diagnosis = await api.call("GET", "/admin/diagnosis")
    assert "dts.jobs.special" in [queue["name"] for queue in diagnosis["queues"]]
    await site.take_messages(1, route="special")
    await seen(None)
    assert await left() == []


async def test_without_any_worker_no_route_is_served(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dts.server.lookup.fleet.ALIVE", 0.0)
    api = site.api()
    job = await api.call("POST", "/jobs/", {"function": "text/upper", "args": ["a"]}, status=201)
    async with within():
        while (await api.call("GET", f"/jobs/{job}")).get("unserved_route") != "default":
            await asyncio.sleep(0.05)
