"""What a user may do wrong with `dts-client`, and what a server may do to its user."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.services.deployment import Deployment, count_rows, rows
from tests.services.waiting import wait_until


@pytest.fixture
def running(embedded: Deployment) -> Deployment:
    return embedded.start_all()


def test_lines_that_are_not_json_are_recorded_and_the_run_goes_on(running: Deployment, tmp_path: Path) -> None:
    infile, outfile, errfile = tmp_path / "in.json", tmp_path / "out.json", tmp_path / "err.json"
    infile.write_bytes(b'["a"]\nnot json\n{"text": "b"}\n\n[NaN]\n"text"\n' + b"[" * 100_000 + b'\n["\xff"]\n["z"]\n')
    done = running.run_client("text/upper", infile, outfile, "--input-format", "json", "--errfile", str(errfile))
    assert done.returncode == 6, done.stderr
    assert {row["line"]: row["result"] for row in rows(outfile)} == {1: "A", 3: "B", 9: "Z"}
    failed = {row["line"]: row["error"] for row in rows(errfile)}
    assert sorted(failed) == [2, 4, 5, 6, 7, 8]
    assert all(error["type"] and error["message"] for error in failed.values())


def test_failures_have_their_traceback(running: Deployment, lines_file: Callable[[int], Path], tmp_path: Path) -> None:
    done = running.run_client("demo/fail", lines_file(3), tmp_path / "out.json")
    assert done.returncode == 3  # lines
    for row in rows(tmp_path / "out.json"):
        assert not row["success"]
        assert row["error"]["type"] == "ValueError"
        assert "fail.py" in row["error"]["traceback"]


@pytest.mark.parametrize(
    ("function", "status", "said"),
    [("no/such", 255, "no/such"), ("../x", 255, "../x"), ("os.path", 255, "os.path")],
)
def test_a_function_that_is_not_there_leaves_the_output_alone(
    running: Deployment, function: str, status: int, said: str, lines_file: Callable[[int], Path], tmp_path: Path
) -> None:
    outfile = tmp_path / "out.json"
    outfile.write_text("precious\n")
    done = running.run_client(function, lines_file(3), outfile)
    assert done.returncode == status, done.stderr
    assert said in done.stderr
    assert outfile.read_text() == "precious\n"


def test_an_unwritable_output_is_refused_before_anything_is_sent(
    running: Deployment, lines_file: Callable[[int], Path], tmp_path: Path
) -> None:
    done = running.run_client("text/upper", lines_file(3), tmp_path / "no" / "such" / "folder" / "out.json")
    assert done.returncode == 255, done.stderr
    assert "cannot write" in done.stderr
    assert "out.json" in done.stderr


def test_a_wrong_secret_is_said(running: Deployment, lines_file: Callable[[int], Path], tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("wrong")
    done = running.run_client("text/upper", lines_file(3), tmp_path / "out.json", "--secret-file", str(secret))
    assert done.returncode == 255
    assert "signed" in done.stderr or "signature" in done.stderr


def test_a_server_that_is_down_is_waited_for(
    embedded: Deployment, lines_file: Callable[[int], Path], tmp_path: Path
) -> None:
    embedded.start_all()
    embedded.kill("server")
    outfile = tmp_path / "out.json"
    embedded.start_client("text/upper", lines_file(50), outfile)
    wait_until(lambda: "waiting" in embedded.log("client"), "the client to say that it waits")
    assert count_rows(outfile) == 0
    embedded.restart("server")
    assert embedded.wait("client") == 0, embedded.log("client")
    assert len(rows(outfile)) == 50


def test_async_functions_run_many_at_a_time(running: Deployment, tmp_path: Path) -> None:
    infile = tmp_path / "in.txt"
    infile.write_text("[0.5]\n" * 200)
    done = running.run_client("demo/asleep", infile, tmp_path / "out.json", "--input-format", "json", timeout=30)
    assert done.returncode == 0, done.stderr  # one after the other they would take 100 s
    assert [row["result"] for row in rows(tmp_path / "out.json")] == [0.5] * 200


def test_a_run_that_is_cancelled_ends_although_its_input_is_idle(embedded: Deployment, tmp_path: Path) -> None:
    embedded.start_server()
    fifo, outfile = tmp_path / "in", tmp_path / "out.json"
    os.mkfifo(fifo)
    writer = os.open(fifo, os.O_RDWR)  # does not wait for a reader, and stays open
    os.write(writer, b"a\nb\n")
    embedded.start_client("text/upper", fifo, outfile)

    def run() -> str | None:
        runs = [json.loads(each) for each in embedded.admin("--json", "runs", "list").stdout.splitlines()]
        queued = (json.loads(embedded.admin("--json", "runs", "get", each["id"]).stdout) for each in runs)
        return next((each["id"] for each in queued if each["statistics"]["total"] == 2), None)

    cancelled = embedded.admin("runs", "cancel", wait_until(run, "both lines to be accepted"), "--yes")
    assert cancelled.returncode == 0, cancelled.stderr
    assert embedded.wait("client") == 255, embedded.log("client")
    os.close(writer)
    assert "somebody else cancelled the run" in embedded.log("client")
    assert [row["error"]["type"] for row in rows(outfile)] == ["Cancelled", "Cancelled"]
