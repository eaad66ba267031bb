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
from dts.errors import RunCancelled
from dts.runtime.process import Shutdown
from tests.integration.conftest import Site


@pytest.fixture
async def client(site: Site) -> AsyncIterator[DtsClient]:
    secret = site.settings.server.admin_secret_file.read_text().strip()
    async with DtsClient("admin", secret, site.url, give_up_after=5.0, snooze_interval=0.01) as client:
        yield client


async def the_run(site: Site, jobs: int) -> str:
    """The id of the only run, once it has so many jobs."""
    api = site.api()
    async with asyncio.timeout(10):
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
    async with asyncio.timeout(20):
        with pytest.raises(RunCancelled, match="the others were not run"):
            await running
    assert [row["line"] for row in rows] == [1]


async def test_jobs_that_are_cancelled_one_by_one_are_failed_lines(site: Site, client: DtsClient) -> None:
    running = asyncio.create_task(client.run("text/upper", ["a"], lambda row: None))
    run = await the_run(site, 1)
    await site.api().call("DELETE", f"/jobs/{run}-0")
    assert (await running).failed == 1


async def test_the_command_says_so_and_ends_with_a_status_of_its_own(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    read, write = os.pipe()
    os.write(write, b"a\nb\n")
    secret = ["--username", "admin", "--secret-file", str(site.settings.server.admin_secret_file)]
    options = cli.build_parser().parse_args(["text/upper", f"/dev/fd/{read}", "out.json", site.url, *secret])
    running = asyncio.create_task(cli.run(options, Shutdown()))
    run = await the_run(site, 2)
    await site.api().call("DELETE", f"/runs/{run}")
    os.write(write, b"c\n")
    async with asyncio.timeout(20):
        assert await running == cli.EXIT_CANCELLED
    os.close(write)
    os.close(read)
    assert f"somebody else cancelled the run {run}: 2 lines have a row" in capsys.readouterr().err
    assert [json.loads(line)["line"] for line in (tmp_path / "out.json").read_text().splitlines()] == [1, 2]
