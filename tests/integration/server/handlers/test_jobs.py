"""Single jobs: submitted, seen, fetched, cancelled."""

from __future__ import annotations

import asyncio

import pytest

from dts.server.ending import cancel
from tests.integration.conftest import Site
from tests.services.waiting import within


async def test_a_job_from_its_start_to_its_end(site: Site) -> None:
    api = site.api()
    job = await api.call("POST", "/jobs/", {"function": "text/upper", "args": ["é"], "kwargs": {"a": 1}}, status=201)
    seen = await api.call("GET", f"/jobs/{job}")
    assert (seen["id"], seen["function"], seen["args"], seen["kwargs"]) == (job, "text/upper", ["é"], {"a": 1})
    assert seen["state"] in ("accepted", "queued")
    [batch] = await site.take_messages(1)
    await site.finish(batch, value=b'"\\u00c9"')
    done = await api.call("GET", f"/jobs/{job}?wait=10")
    assert (done["state"], done["success"], done["result"], done["attempt"]) == ("succeeded", True, "É", 1)
    listed = await api.call("GET", "/jobs/")
    assert listed["retrievables"] == [job]
    assert listed["statistics"]["succeeded"] == listed["statistics"]["total"] == 1
    await api.refused("DELETE", f"/jobs/{job}", status=409, code="job_ended")


async def test_a_list_of_jobs_gives_ids_in_order(site: Site) -> None:
    api = site.api()
    params = [{"function": "text/upper" if i % 2 else "text/reverse", "args": [i]} for i in range(7)]
    ids = await api.call("POST", "/jobs/", params, status=201)
    assert len(set(ids)) == 7
    for number, job in enumerate(ids):
        seen = await api.call("GET", f"/jobs/{job}")
        assert (seen["args"], seen["function"]) == ([number], params[number]["function"])
    await api.refused("POST", "/jobs/", [], status=400, code="argument_invalid")


async def test_a_failed_job_says_why(site: Site) -> None:
    api = site.api()
    job = await api.call("POST", "/jobs/", {"function": "text/upper"}, status=201)
    [batch] = await site.take_messages(1)
    await site.finish(batch, fail=(0,))
    done = await api.call("GET", f"/jobs/{job}?wait=10")
    assert (done["state"], done["success"]) == ("failed", False)
    assert done["error"]["message"] == "no"


async def test_a_cancelled_job_stays_cancelled(site: Site) -> None:
    api = site.api()
    job, other = await api.call("POST", "/jobs/", [{"function": "text/upper"}] * 2, status=201)
    assert (await api.call("DELETE", f"/jobs/{job}"))["state"] == "cancelled"
    assert (await api.call("DELETE", f"/jobs/{job}"))["state"] == "cancelled", "asking twice is no error"
    for batch in await site.take_messages(2):
        await site.finish(batch)
    assert (await api.call("GET", f"/jobs/{other}?wait=10"))["state"] == "succeeded"
    assert (await api.call("GET", f"/jobs/{job}"))["state"] == "cancelled"


async def test_many_jobs_are_cancelled_by_a_mark_and_ended_by_the_sweep(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With many of them the answer does not wait for the end of each, and its number is right all the same."""
    monkeypatch.setattr(cancel, "_BLOCKS", 7)
    monkeypatch.setattr(cancel, "_AT_ONCE", 5)
    api = site.api()
    jobs = [await api.call("POST", "/jobs/", {"function": "text/upper"}, status=201) for _ in range(30)]
    answer = await api.call("DELETE", "/jobs/?all=true")
    assert answer == {"cancelled": 30, "runs": 30}
    assert (await api.call("DELETE", "/jobs/?all=true"))["cancelled"] == 0
    async with within():
        while (seen := await api.call("GET", "/jobs/"))["statistics"]["cancelled"] < 30:
            await asyncio.sleep(0.05)
    assert seen["statistics"]["total"] == 30
    assert {(await api.call("GET", f"/jobs/{job}"))["state"] for job in jobs} == {"cancelled"}
