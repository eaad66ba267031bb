"""`python -m dts`: everything on one machine, started and ended as one."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from tests.services.deployment import Deployment, rows
from tests.services.waiting import wait_until


def start(deployment: Deployment, *flags: str) -> psutil.Process:
    deployment.start("dts", sys.executable, "-m", "dts", "--port", str(deployment.port), *flags)
    deployment.wait_ready("dts")
    return psutil.Process(deployment.pid("dts"))


def test_a_file_goes_through(embedded: Deployment, lines_file: Callable[[int], Path], tmp_path: Path) -> None:
    start(embedded)
    done = embedded.run_client("text/upper", lines_file(3000), tmp_path / "out.json")
    assert done.returncode == 0, done.stderr
    assert "3000 lines: 3000 succeeded, 0 failed" in done.stderr
    assert len(rows(tmp_path / "out.json")) == 3000


def test_a_newcomer_runs_a_function_of_their_own_with_the_command_that_is_printed(embedded: Deployment) -> None:
    (embedded.folder / "mine" / "shop").mkdir(parents=True)
    (embedded.folder / "mine" / "shop" / "price.py").write_text("def main(line):\n    return len(line)\n")
    start(embedded, "--functions", "mine")
    wait_until(lambda: "dts-admin help" in embedded.log("dts"), "the next steps to be printed")
    [command] = [line.strip() for line in embedded.log("dts").splitlines() if "| dts-client" in line]
    assert command == f"printf 'one\\ntwo\\n' | dts-client shop/price - - {embedded.url}"
    done = embedded.run("sh", "-c", command)
    assert done.returncode == 0, done.stderr
    assert [json.loads(line)["result"] for line in done.stdout.splitlines()] == [3, 3]

    missing = embedded.run("sh", "-c", command.replace("shop/price", "stall/price"))
    assert missing.returncode == 255
    assert "dts-admin namespaces add stall; dts-admin functions add stall/price" in missing.stderr


def test_a_function_is_deployed_with_one_command_and_a_result_names_its_version(embedded: Deployment) -> None:
    start(embedded)
    folder = embedded.folder / "stats"
    folder.mkdir()
    (folder / "words.py").write_text("def count(line):\n    return len(line.split())\n")
    found = []
    for line in ("return count(line)", "return [count(line)]"):
        (folder / "main.py").write_text(f"from words import count\n\n\ndef main(line):\n    {line}\n")
        done = embedded.admin("--json", "functions", "deploy", "shop/stats", "stats")
        assert done.returncode == 0, done.stderr
        version = json.loads(done.stdout)["short"]
        (embedded.folder / "in.txt").write_text("a b c\n")
        run = embedded.run_client(
            "shop/stats", embedded.folder / "in.txt", embedded.folder / version, "--fields", "version"
        )
        assert run.returncode == 0, run.stderr
        [row] = rows(embedded.folder / version)
        assert row["version"] == version
        found.append(row["result"])
    assert found == [3, [3]]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_nothing_is_left_behind(embedded: Deployment, number: signal.Signals) -> None:
    tree = start(embedded)
    wait_until(lambda: len(tree.children(recursive=True)) >= 3, "server, worker and children")
    parts = tree.children(recursive=True)
    embedded.signal("dts", number)
    code = embedded.wait("dts")
    assert code == (0 if number != signal.SIGKILL else -signal.SIGKILL), embedded.log("dts")
    wait_until(lambda: not any(part.is_running() for part in parts), "all parts to end")


def test_a_part_that_dies_is_started_again(
    embedded: Deployment, lines_file: Callable[[int], Path], tmp_path: Path
) -> None:
    tree = start(embedded)
    for part in tree.children():
        os.kill(part.pid, signal.SIGKILL)
    wait_until(lambda: len(tree.children()) == 2, "both parts to be back")
    embedded.wait_ready("dts")
    done = embedded.run_client("text/upper", lines_file(100), tmp_path / "out.json")
    assert done.returncode == 0, done.stderr


def test_a_second_one_in_the_same_folder_ends_before_it_starts_a_worker(embedded: Deployment) -> None:
    first = start(embedded)
    with Deployment(embedded.folder) as second:
        second.start("second", sys.executable, "-m", "dts", "--port", str(second.port))
        assert second.wait("second") == 2
        assert f"runs in this folder already, as process {first.pid}" in second.log("second")
        assert "worker" not in second.log("second")
    embedded.signal("dts", signal.SIGKILL)
    embedded.wait("dts")
    wait_until(lambda: not psutil.pid_exists(first.pid), "the first one to be gone")
    start(embedded)  # a file that a killed one has left is in nobody's way


def test_a_port_in_use_is_said_at_once(embedded: Deployment, tmp_path: Path) -> None:
    tree = start(embedded)
    server = next(part for part in tree.children() if "dts.server" in part.cmdline())
    with Deployment(tmp_path / "other", port=embedded.port) as other:
        other.start("dts", sys.executable, "-m", "dts", "--port", str(embedded.port))
        assert other.wait("dts") == 2
        assert f"cannot listen on 127.0.0.1:{embedded.port}" in other.log("dts")
        assert f"by process {server.pid} (" in other.log("dts")
        assert "worker" not in other.log("dts")
