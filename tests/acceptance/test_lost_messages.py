"""Messages that a broker loses, with real processes: every line gets its row all the same."""

from __future__ import annotations

import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.services.base import freeze
from tests.services.deployment import Deployment, count_rows, rows
from tests.services.rabbitmq import RabbitServer
from tests.services.waiting import wait_until

LINES = 2000
FUNCTION = """
import time

def main(text):
    time.sleep(0.005)
    return text.upper()
"""
QUEUE = "dts.jobs.default"


def prepare(deployment: Deployment, tmp_path: Path) -> None:
    """A function that takes its time, small messages, and a short patience with lost ones."""
    folder = tmp_path / "functions" / "own"
    folder.mkdir(parents=True)
    (folder / "slow.py").write_text(FUNCTION)
    deployment.environment |= {
        "DTS_WORKER_FUNCTIONS": str(folder.parent),
        "DTS_WORKER_PROCESSES": "2",
        "DTS_WORKER_HEARTBEAT": "0.5",
        "DTS_SERVER_MAX_SLICE": "8",
        "DTS_DAEMONS_REPAIR_AFTER": "2",
    }
    deployment.start_all()
    for command in (["namespaces", "add", "own"], ["functions", "add", "own/slow"]):
        administer(deployment, *command)


def administer(deployment: Deployment, *command: str) -> str:
    """Run `dts-admin` as the administrator; returns what it prints."""
    done = deployment.admin(*command)
    assert done.returncode == 0, done.stderr
    return done.stdout


def start_run(deployment: Deployment, infile: Path, outfile: Path) -> None:
    """Start the client, and wait until the run is well under way."""
    deployment.start_client("own/slow", infile, outfile)
    wait_until(lambda: count_rows(outfile) >= 200, "the run to be under way")


def check_rows(deployment: Deployment, outfile: Path) -> None:
    """Wait for the end of the run; each line has one row."""
    assert deployment.wait("client") == 0, deployment.log("client")
    assert sorted(row["line"] for row in rows(outfile)) == list(range(1, LINES + 1))
    assert all(row["success"] for row in rows(outfile))


def waiting(rabbit: RabbitServer) -> int:
    """How many messages wait for a worker."""
    depths = dict(line.split() for line in rabbit.control("list_queues", "name", "messages_ready").splitlines()[1:])
    return int(depths.get(QUEUE, 0))


def delete_queue_file(folder: Path, pattern: str) -> None:
    """Delete the file of the embedded broker, or all that belongs to it."""
    for path in (folder / "var").glob(pattern):
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def test_a_queue_file_that_is_deleted_while_nothing_runs_loses_no_line(
    embedded: Deployment, lines_file: Callable[[int], Path], tmp_path: Path
) -> None:
    prepare(embedded, tmp_path)
    start_run(embedded, lines_file(LINES), tmp_path / "out.json")
    embedded.kill("worker")
    embedded.kill("server")
    delete_queue_file(embedded.folder, "queue.db*")
    embedded.restart("server")
    embedded.restart("worker")
    check_rows(embedded, tmp_path / "out.json")
    assert "are published again, since the broker has lost them" in embedded.log("server")


@pytest.mark.parametrize("pattern", ["queue.db", "queue.db*"])
def test_a_queue_file_that_is_deleted_in_use_loses_no_line(
    embedded: Deployment, pattern: str, lines_file: Callable[[int], Path], tmp_path: Path
) -> None:
    prepare(embedded, tmp_path)
    start_run(embedded, lines_file(LINES), tmp_path / "out.json")
    delete_queue_file(embedded.folder, pattern)
    check_rows(embedded, tmp_path / "out.json")


@pytest.mark.parametrize("command", ["purge_queue", "delete_queue"])
def test_a_queue_of_rabbitmq_that_is_purged_or_deleted_loses_no_line(
    cluster: Deployment, rabbit: RabbitServer, command: str, lines_file: Callable[[int], Path], tmp_path: Path
) -> None:
    prepare(cluster, tmp_path)
    outfile = tmp_path / "out.json"
    start_run(cluster, lines_file(LINES), outfile)
    freeze(cluster.pid("worker"))  # so that messages wait: the queue holds half a second of work at most
    wait_until(lambda: waiting(rabbit) > 0, "messages that can be lost")
    rabbit.control(command, QUEUE)
    cluster.signal("worker", signal.SIGCONT)
    assert count_rows(outfile) < LINES, "the run ended before anything was lost"
    check_rows(cluster, outfile)
    assert "are published again, since the broker has lost them" in cluster.log("daemons")


def test_an_operator_need_not_wait_for_timekeeper(
    cluster: Deployment, rabbit: RabbitServer, lines_file: Callable[[int], Path], tmp_path: Path
) -> None:
    prepare(cluster, tmp_path)
    cluster.kill("daemons")
    cluster.environment["DTS_DAEMONS_REPAIR_AFTER"] = "3600"
    cluster.restart("daemons")
    start_run(cluster, lines_file(LINES), tmp_path / "out.json")
    freeze(cluster.pid("worker"))
    wait_until(lambda: waiting(rabbit) > 0, "messages that can be lost")
    rabbit.control("purge_queue", QUEUE)
    cluster.signal("worker", signal.SIGCONT)
    run = administer(cluster, "--json", "runs", "list", "--limit", "1").split('"id":"')[1].split('"')[0]
    assert "published again" in administer(cluster, "runs", "requeue", run, "--yes")
    check_rows(cluster, tmp_path / "out.json")
