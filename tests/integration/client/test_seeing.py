"""What is seen of a run while it goes on, and before it begins."""

from __future__ import annotations

import json
from typing import Any

import pytest

from dts.client import cli
from dts.runtime.process import Shutdown
from tests.integration.client.test_run import FakeServer, Handler
from tests.integration.client.test_shapes import run, server, write

__all__ = ["server"]  # a fixture

WAITING = {"reason": "no_worker", "text": "no worker serves the route gpu"}


@pytest.fixture(autouse=True)
def _often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dts.client.run.watch.LOOK_INTERVAL", 0.01)
    monkeypatch.setattr("dts.client.command.screen.LINE_INTERVAL", 0.01)
    monkeypatch.setattr("dts.client.command.screen.RECORD_INTERVAL", 0.01)


class Stall:
    """Gives no results until the client has said something that a test waits for."""

    def __init__(self, server: FakeServer, capsys: pytest.CaptureFixture[str], *words: str) -> None:
        self.said = ""
        self._words = words
        self._capsys = capsys
        server.faults["GET /runs/ID/results"].append(self.wait)
        server.faults["GET /runs/ID"] += [self.view] * 10_000

    def wait(self, handler: Handler) -> bool:
        self.said += self._capsys.readouterr().err
        if all(word in self.said for word in self._words):
            return False
        handler.server.faults[handler.what].append(self.wait)
        handler.finish(b"")  # an empty page
        return True

    def view(self, handler: Handler) -> bool:
        counts = {**handler.server.statistics(), "total": 99, "succeeded": 0}
        counts |= {"accepted": 1, "queued": 2, "running": 3, "delayed": 0}
        view = {"id": "x", "state": "open", "paused": False, "finished": False, "statistics": counts}
        handler.result({**view, "waiting": WAITING})
        return True


async def test_why_nothing_comes_is_said_once(server: FakeServer, capsys: pytest.CaptureFixture[str]) -> None:
    stall = Stall(server, capsys, " s: its next line waits: no worker serves the route gpu; 3 lines are at work")
    assert await run(server, "a\nb\n") == 0
    assert (stall.said + capsys.readouterr().err).count("no results for") == 1


async def test_a_line_now_and_then_off_a_terminal(server: FakeServer, capsys: pytest.CaptureFixture[str]) -> None:
    Stall(
        server, capsys, "3 running, 3 waiting: no worker serves the route gpu\n", "dts-client: 0 of 2 lines, 0 failed"
    )
    assert await run(server, "a\nb\n") == 0


async def test_records_for_a_program_are_all_that_it_gets(
    server: FakeServer, capsys: pytest.CaptureFixture[str]
) -> None:
    stall = Stall(server, capsys, '"running": 3', '"message": "no results for')
    assert await run(server, "a\nbad\n", "--progress", "json") == 1
    records: list[dict[str, Any]] = [json.loads(line) for line in (stall.said + capsys.readouterr().err).splitlines()]
    assert {"done", "failed", "rate", "left", "total", "why"} <= records[0].keys()
    assert any(record.get("why") == WAITING["text"] for record in records)
    last = records[-1]
    assert (last["finished"], last["done"], last["succeeded"], last["failed"]) == (True, 2, 1, 1)
    assert last["errors"] == [{"error": 'ValueError: a "bad" line', "lines": 1, "first": 2}]


async def test_quiet_asks_and_says_nothing(server: FakeServer, capsys: pytest.CaptureFixture[str]) -> None:
    assert await run(server, "a\nb\n", "--quiet") == 0
    assert capsys.readouterr().err == ""
    assert "GET /runs/ID" not in server.requests


async def test_a_dry_run_shows_the_first_jobs_and_sends_nothing(
    server: FakeServer, capsys: pytest.CaptureFixture[str]
) -> None:
    write("in.json", b'[1, "x"]\n{"a": 2}\nnot json\n' + b"[3]\n" * 100)
    argv = ["text/upper", "in.json", "out", "--input-format", "json", "--args", '{"lang": "en"}', "--dry-run"]
    assert await dry_run(*argv) == 0
    said = capsys.readouterr()
    shown = [json.loads(line) for line in said.out.splitlines()]
    assert len(shown) == 10
    assert shown[0] == {"line": 1, "args": [1, "x"], "kwargs": {"lang": "en"}}
    assert shown[1] == {"line": 2, "args": [], "kwargs": {"lang": "en", "a": 2}}
    assert shown[2]["error"].startswith("the line is not valid JSON")
    assert "the first 10 jobs for text/upper; nothing was sent" in said.err
    assert server.requests == []
    assert await dry_run(*argv, "--head", "2") == 0
    assert len(capsys.readouterr().out.splitlines()) == 2


async def dry_run(*argv: str) -> int:
    return await cli.dry_run(cli.build_parser().parse_intermixed_args(argv), Shutdown())


def test_a_dry_run_needs_no_server(capsys: pytest.CaptureFixture[str], server: FakeServer) -> None:
    write("in.txt", b"a\n")
    assert cli.main(["text/upper", "in.txt", "-", "--dry-run"]) == 0
    assert json.loads(capsys.readouterr().out) == {"line": 1, "args": ["a"], "kwargs": {}}
