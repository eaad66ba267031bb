"""The main job: a file of lines through a function, whatever is killed meanwhile."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.services.deployment import Deployment, count_rows, rows, wait_until
from tests.services.rabbitmq import RabbitServer

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


@pytest.mark.parametrize("victim", ["worker", "server", "daemons", "rabbitmq"])
def test_a_killed_process_loses_no_line_on_the_cluster(
    cluster: Deployment, rabbit: RabbitServer, victim: str, lines_file: Callable[[int], Path], tmp_path: Path
) -> None:
    cluster.environment |= SLOWLY
    cluster.start_all()
    outfile = tmp_path / "out.json"
    client = cluster.start_client("text/upper", lines_file(20_000), outfile)
    wait_until(lambda: count_rows(outfile) >= KILLED_AT, "the run to be under way")
    assert client.poll() is None, "the run ended before anything was killed"
    if victim == "rabbitmq":
        rabbit.kill()
        rabbit.start()
    else:
        cluster.kill(victim)
        cluster.restart(victim)
    assert cluster.wait("client", timeout=60) == 0, cluster.log("client")
    check_exactly_one_correct_row_per_line(outfile, 20_000)


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
    assert embedded.wait("client", timeout=60) == 0, embedded.log("client")
    check_exactly_one_correct_row_per_line(outfile, 20_000)
