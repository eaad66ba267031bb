"""A run that somebody else cancels while a client is at it: a clear end, and a row for all that the server had."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from dts.client import DtsClient, cli
from dts.errors import RequestRefused, RunCancelled
from dts.runtime.process import Shutdown
from tests.integration.conftest import Site
from tests.services.waiting import within


@pytest.fixture
async def client(site: Site) -> AsyncIterator[DtsClient]:
    secret = site.settings.server.admin_secret_file.read_text().strip()
    async with DtsClient("admin", secret, site.url, give_up_after=5.0, snooze_interval=0.01) as client:
        yield client


async def the_run(site: Site, jobs: int) -> str:
    """The id of the only run, once it has so many jobs."""
    api = site.api()
    async with within():
        while True:
            for run in await api.call("GET", "/runs/"):
                if (await api.call("GET", f"/runs/{run['id']}"))["statistics"]["total"] >= jobs:
                    return str(run["id"])
            await asyncio.sleep(0.02)


async def test_a_run_that_was_sent_as_a_whole(site: Site, client: DtsClient) -> None:
    rows: list[dict[str, Any]] = []
    running = asyncio.create_task(client.run("text/upper", ["a", "b", "c"], rows.append))
    run = await the_run(site, 3)
    await site.api().call("DELETE", f"/admin/runs/{run}")
    with pytest.raises(RunCancelled, match=f"somebody else cancelled the run {run}: 3 lines have a row, 3 of them"):
        await running
    assert {row["error"]["type"] for row in rows} == {"Cancelled"}
    assert sorted(row["line"] for row in rows) == [1, 2, 3]


async def test_a_run_that_goes_on_being_fed(site: Site, client: DtsClient) -> None:
    go_on = asyncio.Event()
    rows: list[dict[str, Any]] = []

    async def endless() -> AsyncIterator[str]:
        yield "first"
        await go_on.wait()
        while True:
            yield "x"
            await asyncio.sleep(0.001)

    running = asyncio.create_task(client.run("text/upper", endless(), rows.append))
    run = await the_run(site, 1)
    await site.api().call("DELETE", f"/runs/{run}")
    go_on.set()
    async with within():
        with pytest.raises(RunCancelled, match="the others were not run"):
            await running
    assert [row["line"] for row in rows] == [1]


async def idle_after(*items: str) -> AsyncIterator[str]:
    """An input that has no more for now, and no end."""
    for item in items:
        yield item
    await asyncio.Event().wait()


async def test_a_run_whose_input_is_idle_while_jobs_are_out_ends_at_once(site: Site, client: DtsClient) -> None:
    rows: list[dict[str, Any]] = []
    running = asyncio.create_task(client.run("text/upper", idle_after("a", "b"), rows.append))
    run = await the_run(site, 2)
    await site.api().call("DELETE", f"/runs/{run}")
    async with within():  # well before it would ask by itself
        with pytest.raises(RunCancelled, match="2 lines have a row, 2 of them as cancelled; the others were not run"):
            await running
    assert sorted(row["line"] for row in rows) == [1, 2]


async def test_a_run_whose_input_is_idle_asks_now_and_then(
    site: Site, client: DtsClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dts.client.run.collect.IDLE_LOOK", 0.2)
    rows: list[dict[str, Any]] = []
    all_here = asyncio.Event()

    def take(row: dict[str, Any]) -> None:
        rows.append(row)
        all_here.set()

    running = asyncio.create_task(client.run("text/upper", idle_after("a"), take))
    await the_run(site, 1)
    for batch in await site.take_messages(1):
        await site.finish(batch)
    await all_here.wait()
    await asyncio.sleep(0.5)  # looks at the run and finds nothing
    assert not running.done()
    await site.api().call("DELETE", f"/runs/{client.progress.run}")
    async with within():
        with pytest.raises(RunCancelled, match="1 lines have a row, 0 of them as cancelled; the others were not run"):
            await running
    assert [(row["line"], row["success"]) for row in rows] == [(1, True)]


async def test_a_user_who_is_removed_is_told_although_the_input_is_idle(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dts.client.run.collect.IDLE_LOOK", 0.2)
    await site.add_user("alice", namespaces=("*",))
    async with DtsClient("alice", "secret of alice", site.url, give_up_after=5.0) as client:
        running = asyncio.create_task(client.run("text/upper", idle_after(), lambda row: None))
        async with within():
            while not client.progress.run:
                await asyncio.sleep(0.01)
            await site.api().call("DELETE", "/admin/users/alice?force=true")
            with pytest.raises(RequestRefused, match="User alice: check name and secret"):
                await running


async def test_jobs_that_are_cancelled_one_by_one_are_failed_lines(site: Site, client: DtsClient) -> None:
    running = asyncio.create_task(client.run("text/upper", ["a"], lambda row: None))
    run = await the_run(site, 1)
    await site.api().call("DELETE", f"/jobs/{run}-0")
    assert (await running).failed == 1


async def test_a_job_that_is_cancelled_does_not_end_the_run_that_it_is_of(site: Site, client: DtsClient) -> None:
    first = asyncio.Event()

    async def two() -> AsyncIterator[str]:
        yield "a"
        await first.wait()
        yield "b"

    running = asyncio.create_task(client.run("text/upper", two(), lambda row: first.set()))
    run = await the_run(site, 1)
    await site.api().call("DELETE", f"/jobs/{run}-0")
    await the_run(site, 2)
    for batch in await site.take_messages(2):
        await site.finish(batch)
    summary = await running
    assert (summary.lines, summary.failed) == (2, 1)


async def test_the_command_ends_with_what_it_has(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    read, write = os.pipe()
    os.write(write, b"a\nb\n")
    secret = ["--username", "admin", "--secret-file", str(site.settings.server.admin_secret_file)]
    options = cli.build_parser().parse_args(["text/upper", f"/dev/fd/{read}", "out.json", site.url, *secret])
    running = asyncio.create_task(cli.run(options, Shutdown()))
    run = await the_run(site, 2)
    await site.api().call("DELETE", f"/runs/{run}")
    os.write(write, b"c\n")
    async with within():
        with pytest.raises(RunCancelled, match=f"cancelled the run {run}: 2 lines have a row"):
            await running
    os.close(write)
    os.close(read)
    assert [json.loads(line)["line"] for line in (tmp_path / "out.json").read_text().splitlines()] == [1, 2]


async def test_the_command_of_a_user_who_is_removed_does_not_say_that_the_run_goes_on(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("dts.client.run.collect.IDLE_LOOK", 0.2)
    monkeypatch.chdir(tmp_path)
    await site.add_user("alice", namespaces=("*",))
    (tmp_path / "secret").write_text("secret of alice")
    read, write = os.pipe()
    os.write(write, b"a\n")
    who = ["--username", "alice", "--secret-file", "secret"]
    options = cli.build_parser().parse_args(["text/upper", f"/dev/fd/{read}", "out.json", site.url, *who])
    running = asyncio.create_task(cli.run(options, Shutdown()))
    for batch in await site.take_messages(1):
        await site.finish(batch)
    async with within():
        while not (tmp_path / "out.json").read_text():
            await asyncio.sleep(0.02)
        await site.api().call("DELETE", "/admin/users/alice?force=true")
        with pytest.raises(RequestRefused, match="User alice: check name and secret"):
            await running
    os.close(write)
    os.close(read)
    assert "stopped after 1 of 1 or more lines; go on with: dts-client" in capsys.readouterr().err
