"""A run without its client: left to the fleet, or after the client's machine was lost; its rows are collected later."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.acceptance.test_main_job import SLOWLY, check_exactly_one_correct_row_per_line
from tests.services.deployment import Deployment, count_rows, rows
from tests.services.waiting import wait_until


def control(deployment: Deployment, *words: str) -> str:
    """What a subcommand prints."""
    secret = ["--username", "admin", "--secret-file", "var/admin.secret"]
    done = deployment.run("dts-client", *words, deployment.url, *secret)
    assert done.returncode == 0, done.stderr
    return done.stdout


def attach(deployment: Deployment, run: str, outfile: Path, *flags: str) -> None:
    control(deployment, "attach", run, str(outfile), *flags)


def test_a_run_that_was_left_to_the_fleet_is_collected_from_anywhere(
    deployment: Deployment, lines_file: Callable[[int], Path], tmp_path: Path
) -> None:
    deployment.start_all()
    infile, outfile = tmp_path / "in.json", tmp_path / "out.json"
    lines = [f'["line number {number} of the file"]' if number % 7 else "not json" for number in range(1, 3001)]
    infile.write_text("\n".join(lines))
    left = deployment.run_client("text/upper", infile, outfile, "--input-format", "json", "--detach")
    assert left.returncode == 0, left.stderr
    run = left.stdout.strip()
    assert "collect their rows with: dts-client text/upper" in left.stderr
    assert left.stderr.rstrip().endswith(" --resume")
    outfile.unlink()
    Path(f"{outfile}.dts").unlink()
    for number in (1, 2):
        found = tmp_path / f"attached{number}.json"
        attach(deployment, run, found, *(["--again"] if number == 2 else []))
        assert sorted(row["line"] for row in rows(found)) == [number for number in range(1, 3001) if number % 7]
        assert all(row["result"] == f"LINE NUMBER {row['line']} OF THE FILE" for row in rows(found))
    assert f"run {run} of text/upper is finished, 2572 lines: 2572 succeeded" in control(deployment, "status", run)
    assert run in control(deployment, "runs")
    assert "has finished" in control(deployment, "why", run)


def test_a_detached_run_is_collected_by_the_same_command(
    embedded: Deployment, lines_file: Callable[[int], Path], tmp_path: Path
) -> None:
    embedded.start_all()
    infile, outfile = lines_file(3000), tmp_path / "out.json"
    assert embedded.run_client("text/upper", infile, outfile, "--detach").returncode == 0
    done = embedded.run_client("text/upper", infile, outfile, "--resume")
    assert done.returncode == 0, done.stderr
    check_exactly_one_correct_row_per_line(outfile, 3000)


def test_the_rows_of_a_client_whose_machine_is_lost(
    embedded: Deployment, lines_file: Callable[[int], Path], tmp_path: Path
) -> None:
    embedded.environment |= SLOWLY
    embedded.start_all()
    infile, outfile = lines_file(5000), tmp_path / "out.json"
    embedded.start_client("text/upper", infile, outfile)
    wait_until(lambda: count_rows(outfile) >= 500, "the run to be under way")
    embedded.kill("client")
    [run] = [json.loads(line) for line in control(embedded, "runs", "--json").splitlines()]
    accepted = json.loads(control(embedded, "status", run["id"], "--json"))["statistics"]["total"]
    found = tmp_path / "elsewhere" / "found.json"
    found.parent.mkdir()
    embedded.start("attach", *embedded.attach_command(run["id"], found, "--again"))
    wait_until(lambda: count_rows(found) >= 300, "rows to be collected")
    embedded.kill("attach")
    attach(embedded, run["id"], found, "--again", "--resume")
    check_exactly_one_correct_row_per_line(found, accepted)


@pytest.mark.parametrize("name", ["pause", "cancel"])
def test_a_run_is_paused_resumed_and_cancelled(
    name: str, embedded: Deployment, lines_file: Callable[[int], Path], tmp_path: Path
) -> None:
    embedded.start_server()  # and no worker: nothing ends by itself
    left = embedded.run_client("text/upper", lines_file(100), tmp_path / "out.json", "--detach")
    run = left.stdout.strip()
    assert "wait for a worker that is free" in control(embedded, "why", run)
    said = control(embedded, name, run)
    if name == "pause":
        assert "is paused" in said
        assert "it is paused" in control(embedded, "why", run)
        assert "is closed" in control(embedded, "resume", run)
    else:
        assert "100 lines: 100 cancelled" in said
