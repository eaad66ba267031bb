"""The failed jobs of a run are run again, in a new run."""

from __future__ import annotations

from dataclasses import replace

import msgspec

from dts.management.client import AdminClient
from tests.integration.conftest import Site
from tests.services.waiting import until


async def a_run_where_some_fail(site: Site, count: int, fails: set[int]) -> str:
    """A run of bob's from a file, from line 11 on, whose jobs of these numbers have failed."""
    bob = await site.add_user("bob", namespaces=("text",))
    run = (await bob.call("POST", "/runs/", {"function": "text/upper", "max_attempts": 1}, status=201))["id"]
    body = b"".join(msgspec.json.encode({"args": [f"line {number}"]}) + b"\n" for number in range(count))
    headers = {"Content_Type": "application/x-ndjson"}
    answer = await bob.send("PUT", f"/runs/{run}/blocks/0?first_line=11", body, **headers)
    assert answer.code == 201, answer.body
    await bob.call("PATCH", f"/runs/{run}", {"state": "closed"})
    for batch in await site.take_messages(count):
        await site.finish(batch, fail=tuple({job.index for job in batch.jobs} & fails))

    async def finished() -> bool:
        return bool((await bob.call("GET", f"/runs/{run}"))["finished"])

    await until(finished, "the run to finish")
    return str(run)


async def test_what_failed_runs_again_under_its_lines(site: Site) -> None:
    run = await a_run_where_some_fail(site, 10, {2, 3, 7})
    await site.add_user("boss", roles={"operator"})
    async with AdminClient("boss", "secret of boss", site.url) as client:
        done = await client.runs.retry(run)
    assert done["jobs"] == 3
    again = [job for batch in await site.take_messages(3) for job in batch.jobs]
    assert [job.args for job in again] == [b'["line 2"]', b'["line 3"]', b'["line 7"]']
    admin = site.api()
    new = await admin.call("GET", f"/admin/runs/{done['run']}")
    assert (new["user"], new["state"], new["statistics"]["total"]) == ("bob", "closed", 3)
    old = await admin.call("GET", f"/admin/runs/{run}")
    assert old["counts"] == {"total": 10, "succeeded": 7, "failed": 3, "cancelled": 0}
    bob = site.api("bob", "secret of bob")
    [block] = await bob.call("GET", f"/runs/{done['run']}/blocks")
    assert block["lines"] == [13, 14, 18]
    log = await admin.call("GET", "/admin/operations/?op_type=runs.retry")
    assert [(entry["operator"], entry["doc_id"], entry["outcome"]) for entry in log] == [
        ("boss", run, "done"),
        ("boss", run, "begun"),
    ]
    listed = {each["id"]: each["counts"] for each in await admin.call("GET", "/admin/runs/?counts=true")}
    assert (listed[run]["failed"], listed[done["run"]]["total"]) == (3, 3)


async def test_single_jobs_of_several_functions_run_again_as_they_were_asked_for(site: Site) -> None:
    for name, version in (("text/upper", "a" * 64), ("text/reverse", "b" * 64)):
        function = await site.store.get_function(name)
        assert function is not None
        changed = replace(function, deployed=version, version=function.version + 1)
        assert await site.store.replace_record(changed, version=function.version)
    asked = {"max_attempts": 1, "timeout": 86_400.0}
    jobs = [{"function": "text/upper", "priority": 7, **asked}, {"function": "text/reverse", "priority": 3, **asked}]
    ids = await site.api().call("POST", "/jobs/", jobs, status=201)
    run = str((await site.api().call("GET", f"/jobs/{ids[0]}"))["run"])
    before = {batch.function: batch for batch in await site.take_messages(2)}
    for batch in before.values():
        await site.finish(batch, fail=(0,))
        await site.api().call("GET", f"/jobs/{ids[list(before).index(batch.function)]}?wait=30")
    done = await site.api().call("POST", f"/admin/runs/{run}/retry", {}, status=201)
    assert done["jobs"] == 2
    again = {batch.function: batch for batch in await site.take_messages(2)}
    for name, version, priority in (("text/upper", "a" * 64, 7), ("text/reverse", "b" * 64, 3)):
        assert again[name].options.version == version
        assert again[name].options.max_attempts == 1
        assert again[name].options.timeout == 86_400.0
        assert again[name].lease is before[name].lease is True
        block = await site.store.get_block(again[name].block)
        assert block is not None
        assert block.priority == priority


async def test_a_run_in_which_nothing_failed_has_nothing_to_run_again(site: Site) -> None:
    run = await a_run_where_some_fail(site, 3, set())
    why = await site.api().refused("POST", f"/admin/runs/{run}/retry", {}, status=409, code="run_ended")
    assert "no job" in why
    await site.api().refused("POST", "/admin/runs/01unknown/retry", {}, status=404, code="not_found")
    await site.api().refused("POST", f"/admin/runs/{run}/retry", {"version": "zz"}, status=400, code="argument_invalid")
