"""A line that is slow, or dies silently, or a client that is suspended: the run gets on, and says whose fault it is."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

import pytest

from dts.auth import Credentials
from dts.client import DtsClient
from dts.client.run.pace import FIRST_TARGET, LEAST_TARGET, MOST_TARGET, Pace
from dts.client.transport import Transport
from tests.integration.client.test_run import FakeServer
from tests.services.slow_line import SlowLine
from tests.services.waiting import within


@pytest.fixture
async def server() -> AsyncIterator[FakeServer]:
    server = FakeServer()
    server.start()
    yield server
    server.http.stop()
    await server.http.close_all_connections()


async def test_a_run_gets_through_a_line_on_which_uploads_take_longer_than_any_deadline(
    server: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dts.client.transport.REQUEST_TIMEOUT", 1.5)
    monkeypatch.setattr("dts.client.notices.RACE_AFTER", 1.2)
    lines = [f"{number} {'x' * 2000}" for number in range(300)]
    found: list[int] = []
    began = time.monotonic()
    async with SlowLine(server.port, rate=128 * 1024).serve() as line, DtsClient("alice", "secret", line.url) as client:
        await client.run("t/upper", lines, lambda row: found.append(row["line"]))
        assert time.monotonic() - began > 3.0  # all of it could not go through any faster
        assert sorted(found) == list(range(1, 301))
        puts = [request for request in server.requests if request.startswith("PUT")]
        assert len(puts) == len(set(puts)), "a block was sent again though its bytes moved"
        assert len(puts) >= 9


async def test_a_connection_that_died_silently_is_replaced_within_seconds(
    server: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dts.client.notices.RACE_AFTER", 0.2)
    async with SlowLine(server.port).serve() as line:
        transport = Transport(line.url, Credentials("alice", "secret"))
        await transport.call("POST", "/runs/", {"function": "t/upper"})
        line.kill_silently()
        async with within():
            await transport.call("GET", f"/runs/{server.run_id}")
        assert line.connections >= 2, "and not the one that died"
        transport.close()


async def test_a_line_that_takes_nothing_is_blamed_and_not_the_server(
    server: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dts.client.notices.PATIENCE", 0.1)
    said: list[str] = []
    async with SlowLine(server.port, rate=0.001).serve() as line:
        transport = Transport(line.url, Credentials("alice", "secret"), notify=said.append)
        request = asyncio.create_task(transport.request("PUT", "/runs/r/blocks/0", body=b"x" * 2_000_000))
        while not said:
            await asyncio.sleep(0.02)
        assert said == [f"the line to {line.url} has taken nothing for 0.1 s; waiting"]
        request.cancel()
        transport.close()


async def test_time_in_which_the_client_stood_still_is_nobodys(
    server: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dts.client.traffic._STOOD_STILL", 0.2)
    monkeypatch.setattr("dts.client.notices.PATIENCE", 0.3)
    said: list[str] = []
    async with SlowLine(server.port, rate=0.001).serve() as line:
        transport = Transport(line.url, Credentials("alice", "secret"), notify=said.append)
        request = asyncio.create_task(transport.request("PUT", "/runs/r/blocks/0", body=b"x" * 10, timeout=1.0))
        while line.connections == 0:
            await asyncio.sleep(0.01)
        time.sleep(0.9)  # noqa: ASYNC251 - as SIGSTOP does
        await asyncio.sleep(0.05)
        assert len(said) == 1
        assert said[0].startswith("this client stood still for ")
        request.cancel()
        transport.close()


async def test_uploads_grow_while_they_pass_and_are_halved_when_they_do_not() -> None:
    pace = Pace(8)
    assert (pace.at_once, pace.target) == (8, FIRST_TARGET)
    async with pace.turn(pace.target) as first, pace.turn(pace.target) as second:
        first.stalled()
        second.stalled()  # at the same time: it says the same once more
    assert (pace.at_once, pace.target) == (4, FIRST_TARGET // 2)
    for _ in range(20):
        async with pace.turn(1) as turn:
            turn.stalled()
    assert (pace.at_once, pace.target) == (1, LEAST_TARGET)
    for _ in range(100):
        async with pace.turn(pace.target) as turn:
            turn.answered(0.1)
    assert (pace.at_once, pace.target) == (8, MOST_TARGET)


async def test_no_more_uploads_are_under_way_than_the_pace_allows() -> None:
    pace = Pace(4)
    under_way = most = 0

    async def upload() -> None:
        nonlocal under_way, most
        async with pace.turn(1):
            under_way += 1
            most = max(most, under_way)
            await asyncio.sleep(0)
            under_way -= 1

    uploads = [asyncio.create_task(upload()) for _ in range(50)]
    await asyncio.sleep(0)
    uploads[-1].cancel()
    uploads[5].cancel()
    await asyncio.gather(*uploads, return_exceptions=True)
    assert most == 4
    async with within():
        await upload()
