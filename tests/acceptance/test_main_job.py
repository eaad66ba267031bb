"""The main job: a file of lines through a function, whatever is killed meanwhile."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.services.deployment import Deployment, count_rows, rows
from tests.services.mongodb import MongoServer
from tests.services.rabbitmq import RabbitServer
from tests.services.waiting import wait_until

KILLED_AT = 2000
"""Rows that the client has written when something is killed: the run is well under way, and far from its end."""

SLOWLY = {"DTS_SERVER_MAX_SLICE": "8"}
"""Thousands of small messages instead of a hundred: at full speed the run would be over before anything is killed."""


def check_exactly_one_correct_row_per_line(outfile: Path, count: int) -> None:
    found = rows(outfile)
    assert [row["line"] for row in sorted(found, key=lambda row: row["line"])] == list(range(1, count + 1))
    for row in found:
        assert row["success"], row
        assert row["result"] == f"LINE NUMBER {row['line']} OF THE FILE"


def test_every_line_gets_exactly_one_correct_row(
    deployment: Deployment, lines_file: Callable[[int], Path], tmp_path: Path
) -> None:
    deployment.start_all()
    done = deployment.run_client("text/upper", lines_file(30_000), tmp_path / "out.json")
    assert done.returncode == 0, done.stderr
    check_exactly_one_correct_row_per_line(tmp_path / "out.json", 30_000)


VICTIMS = {
    "worker": ["worker"],
    "server": ["server"],
    "porter and timekeeper": ["daemons"],
    "rabbitmq": ["rabbitmq"],
    "mongodb": ["mongodb"],
    "everything": ["worker", "server", "daemons", "rabbitmq", "mongodb"],
}


@pytest.mark.parametrize("victims", VICTIMS.values(), ids=VICTIMS)
def test_a_killed_process_loses_no_line_on_the_cluster(
    cluster: Deployment,
    rabbit: RabbitServer,
    mongo: MongoServer,
    victims: list[str],
    lines_file: Callable[[int], Path],
    tmp_path: Path,
) -> None:
    services: dict[str, RabbitServer | MongoServer] = {"rabbitmq": rabbit, "mongodb": mongo}
    cluster.environment |= SLOWLY
    cluster.start_all()
    outfile = tmp_path / "out.json"
    client = cluster.start_client("text/upper", lines_file(20_000), outfile)
    wait_until(lambda: count_rows(outfile) >= KILLED_AT, "the run to be under way")
    assert client.poll() is None, "the run ended before anything was killed"
    for victim in victims:
        services[victim].kill() if victim in services else cluster.kill(victim)
    for victim in reversed(victims):
        services[victim].start() if victim in services else cluster.restart(victim)
    assert cluster.wait("client") == 0, cluster.log("client")
    check_exactly_one_correct_row_per_line(outfile, 20_000)


def test_a_worker_that_is_told_to_end_finishes_and_loses_no_line(
    deployment: Deployment, lines_file: Callable[[int], Path], tmp_path: Path
) -> None:
    deployment.environment |= SLOWLY
    deployment.start_all()
    outfile = tmp_path / "out.json"
    deployment.start_client("text/upper", lines_file(10_000), outfile)
    wait_until(lambda: count_rows(outfile) >= KILLED_AT, "the run to be under way")
    deployment.signal("worker", signal.SIGTERM)
    assert deployment.wait("worker") == 0
    deployment.restart("worker")
    assert deployment.wait("client") == 0, deployment.log("client")
    check_exactly_one_correct_row_per_line(outfile, 10_000)


@pytest.mark.parametrize("victim", ["worker", "server"])
def test_a_killed_process_loses_no_line_when_embedded(
    embedded: Deployment, victim: str, lines_file: Callable[[int], Path], tmp_path: Path
) -> None:
    embedded.environment |= SLOWLY
    embedded.start_all()
    outfile = tmp_path / "out.json"
    client = embedded.start_client("text/upper", lines_file(20_000), outfile)
    wait_until(lambda: count_rows(outfile) >= KILLED_AT, "the run to be under way")
    assert client.poll() is None, "the run ended before anything was killed"
    embedded.kill(victim)
    embedded.restart(victim)
    assert embedded.wait("client") == 0, embedded.log("client")
    check_exactly_one_correct_row_per_line(outfile, 20_000)
