"""DTS from a program: rows to iterate over, single jobs, and the same without an event loop of one's own."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

import dts
from dts.client import DtsClient
from dts.errors import InvalidInput, JobFailed
from tests.integration.client.test_run import FakeServer, make_client, server

__all__ = ["server"]  # a fixture


@pytest.fixture
async def client(server: FakeServer) -> AsyncIterator[DtsClient]:
    async with make_client(server.url) as client:
        yield client


async def test_rows_to_iterate_over(client: DtsClient) -> None:
    lines = [f"line {number}" for number in range(3000)]
    rows = [row async for row in client.map("text/upper", lines, ordered=True)]
    assert [row["result"] for row in rows] == [line.upper() for line in lines]
    assert sorted([row["line"] async for row in client.map("text/upper", [])]) == []


async def test_rows_that_are_not_read_to_the_end_cancel_the_run(client: DtsClient, server: FakeServer) -> None:
    rows = client.map("text/upper", [f"line {number}" for number in range(5000)])
    async for row in rows:
        assert row["success"]
        break
    await rows.aclose()
    assert server.state == "cancelled"


@pytest.mark.parametrize("source", ["in.txt", b"in.txt", {"a": 1}])
async def test_what_nobody_means_is_refused(client: DtsClient, server: FakeServer, source: str) -> None:
    with pytest.raises(InvalidInput, match="a data source cannot be a"):
        await client.run("text/upper", source, print)
    assert server.requests == []


async def test_a_path_is_a_file(client: DtsClient, tmp_path: Path) -> None:
    (tmp_path / "in.txt").write_text("a\nb\n")
    assert [row["result"] async for row in client.map("text/upper", tmp_path / "in.txt", ordered=True)] == ["A", "B"]


async def test_a_job_has_its_result(client: DtsClient, server: FakeServer) -> None:
    job = await client.submit("text/upper", "a")
    assert job == f"{server.run_id}-0"
    server.job_answer = {"success": True, "result": 7}
    assert await job.result(timeout=5) == 7
    server.job_answer = {"success": False, "error": {"type": "ValueError", "message": "no"}}
    with pytest.raises(JobFailed, match="ValueError: no") as failed:
        await job.result()
    assert failed.value.error["type"] == "ValueError"


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeServer]:
    """A server in a thread of its own, and credentials in the environment."""
    ready, stop = threading.Event(), asyncio.Event()
    found: list[tuple[FakeServer, asyncio.AbstractEventLoop]] = []

    async def serve() -> None:
        server = FakeServer()
        server.start()
        found.append((server, asyncio.get_running_loop()))
        ready.set()
        await stop.wait()
        server.http.stop()
        await server.http.close_all_connections()

    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    ready.wait()
    server, loop = found[0]
    monkeypatch.setenv("DTS_USERNAME", "alice")
    monkeypatch.setenv("DTS_SECRET", "secret")
    monkeypatch.delenv("DTS_SECRET_FILE", raising=False)
    monkeypatch.setenv("DTS_SERVER_URL", server.url)
    yield server
    loop.call_soon_threadsafe(stop.set)
    thread.join()


def use(server: FakeServer) -> None:
    assert [row["result"] for row in dts.map("text/upper", ["a", "b"], ordered=True)] == ["A", "B"]
    server.job_answer = {"success": True, "result": 3}
    assert dts.submit("math/add", 1, 2).result(timeout=5) == 3
    with pytest.raises(InvalidInput):
        dts.submit("math/add", {1, 2})


def test_a_script_needs_no_event_loop(elsewhere: FakeServer) -> None:
    use(elsewhere)


async def test_a_notebook_has_one_that_runs(elsewhere: FakeServer) -> None:
    use(elsewhere)


def test_results_for_a_column_of_a_frame(elsewhere: FakeServer) -> None:
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"text": ["a", "bad", "c"]}, index=[10, 20, 30])
    results = dts.map_frame("text/upper", frame, column="text")
    assert results.to_dict() == {10: "A", 20: None, 30: "C"}
