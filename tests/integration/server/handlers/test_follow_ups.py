"""Runs and jobs are opened with what is to follow them, and tell of it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from dts.model import Function, Namespace, is_id
from dts.server.intake.following import FOLLOWING
from tests.integration.conftest import Site

WANTS = {"then": ["text/upper", "text/lower"], "reduce": "text/lower", "on_end": "text/upper"}


@pytest.fixture(autouse=True)
async def functions(site: Site) -> None:
    await site.store.add_record(Namespace("other"))
    for name in ("text/lower", "other/func"):
        if await site.store.get_function(name) is None:
            await site.store.add_function(Function(name))


async def test_a_run_names_the_runs_that_follow_it_at_once(site: Site) -> None:
    api = await site.add_user("ann", namespaces=("text",))
    run = await api.call("POST", "/runs/", {"function": "text/upper", **WANTS}, status=201)
    assert is_id(run["then_run"])
    assert is_id(run["reduce_run"])
    seen = await api.call("GET", f"/runs/{run['id']}")
    assert (seen["then_run"], seen["reduce_run"]) == (run["then_run"], run["reduce_run"])
    assert "on_end_run" not in seen
    other = await api.call("POST", "/runs/", {"function": "text/upper", "on_success": "text/lower"}, status=201)
    assert "then_run" not in other
    plain = await api.call("POST", "/runs/", {"function": "text/upper"}, status=201)
    assert await site.store.get_document(FOLLOWING, plain["id"]) is None


async def test_jobs_are_followed_as_one_run_and_a_repeat_as_the_first(site: Site) -> None:
    api = site.api()
    job = {"function": "text/upper", "args": ["a"], "on_failure": "text/lower"}
    body = b'{"params": [{"function": "text/upper", "args": ["a"], "on_failure": "text/lower"}]}'
    answers = [await api.send("POST", "/jobs/", body, Idempotency_Key="one") for _ in range(2)]
    assert [answer.code for answer in answers] == [201, 201]
    assert answers[0].body == answers[1].body
    assert len(await site.store.list_documents(FOLLOWING)) == 1
    message = await api.refused(
        "POST", "/jobs/", [job, {"function": "text/upper"}], status=400, code="argument_invalid"
    )
    assert "of all jobs of a request together" in message


@pytest.mark.parametrize(
    ("wants", "status", "code"),
    [
        ({"then": "text/nothing"}, 404, "function_not_found"),
        ({"reduce": "other/func"}, 403, "forbidden"),
        ({"on_end": "server/ping"}, 403, "forbidden"),
        ({"on_success": "no name"}, 400, "name_invalid"),
        ({"then": []}, 400, "argument_invalid"),
        ({"then": ["text/upper"] * 4}, 400, "argument_invalid"),
    ],
)
async def test_what_the_caller_may_not_run_cannot_follow(
    site: Site, wants: dict[str, Any], status: int, code: str
) -> None:
    api = await site.add_user("ann", namespaces=("text",))
    for path in ("/runs/", "/jobs/"):
        await api.refused("POST", path, {"function": "text/upper", **wants}, status=status, code=code)
    assert await site.store.list_runs("ann") == []
    assert await site.store.list_documents(FOLLOWING) == []


async def test_a_chain_goes_on_by_the_servers_own_daemons(site: Site) -> None:
    api = site.api()
    wants = {"then": "text/lower", "reduce": "text/upper", "on_success": "text/lower"}
    run = await api.call("POST", "/runs/", {"function": "text/upper", **wants}, status=201)
    await api.send("PUT", f"/runs/{run['id']}/blocks/0", b'{"args": ["a"]}\n{"args": ["b"]}')
    await api.call("PATCH", f"/runs/{run['id']}", {"state": "closed"})
    runs = {}
    async with asyncio.timeout(200):
        while len(runs) < 4:
            for batch in await site.take_messages(1):
                runs[batch.run] = [job.args for job in batch.jobs]
                await site.finish(batch, value=b'"%s"' % batch.function.encode())
        while "on_success_run" not in (seen := await api.call("GET", f"/runs/{run['id']}")):
            await asyncio.sleep(0.05)
    assert runs[run["id"]] == [b'["a"]', b'["b"]']
    assert runs[run["then_run"]] == [b'["text/upper"]'] * 2
    assert runs[run["reduce_run"]] == [b'[["text/lower","text/lower"]]']
    assert b'"success":true' in runs[seen["on_success_run"]][0]


async def test_a_schedule_fires_by_the_servers_own_daemons(site: Site) -> None:
    api = site.api()
    made = {"id": "often", "function": "text/upper", "every": 1, "lines": "one\ntwo"}
    assert len((await api.call("POST", "/admin/schedules/", made, status=201))["next"]) == 5
    async with asyncio.timeout(200):
        [batch] = await site.take_messages(2)
        while not (firings := await api.call("GET", "/admin/schedules/often/firings")):
            await asyncio.sleep(0.05)
    assert [job.args for job in batch.jobs] == [b'["one"]', b'["two"]']
    assert (firings[-1]["state"], firings[-1]["run"]) == ("started", batch.run)
    assert {each["state"] for each in firings[:-1]} <= {"skipped"}, "nobody finishes the first one"
    assert (await api.call("PATCH", "/admin/schedules/often", {"paused": True}))["next"] == []
