"""A client that is killed or interrupted: the same command with --resume ends with each line's row, once and right."""

from __future__ import annotations

import random
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.acceptance.test_main_job import SLOWLY, check_exactly_one_correct_row_per_line
from tests.services.deployment import Deployment, count_rows, rows
from tests.services.waiting import wait_until

SEED = 20261128


def kill_again_and_again(
    deployment: Deployment, infile: Path, outfile: Path, times: int, *flags: str, others: tuple[str, ...] = ()
) -> int:
    """SIGKILL the client at random moments of a run, and now and then another process; returns how often it was hit."""
    chance = random.Random(SEED)
    hits = 0
    for number in range(times):
        client = deployment.start_client("text/upper", infile, outfile, "--resume", *flags)
        goal = count_rows(outfile) + chance.choice((0, 1, chance.randrange(1000), chance.randrange(3000)))
        wait_until(
            lambda goal=goal, client=client: count_rows(outfile) >= goal or client.poll() is not None,
            "the run to get on",
        )
        if client.poll() is None:
            hits += 1
        deployment.kill("client")
        if others and number % 5 == 2:
            victim = chance.choice(others)
            deployment.kill(victim)
            deployment.restart(victim)
            if victim == "server":
                deployment.wait_ready(victim)
    return hits


def finish(deployment: Deployment, infile: Path, outfile: Path, *flags: str, timeout: float = 60.0) -> None:
    deployment.start_client("text/upper", infile, outfile, "--resume", *flags)
    assert deployment.wait("client", timeout=timeout) == 0, deployment.log("client")


@pytest.mark.parametrize(
    ("flags", "victims"),
    [((), ()), ((), ("server", "worker")), (("-k",), ())],
    ids=["client", "client, server and worker", "rows in order"],
)
def test_a_client_that_is_killed_again_and_again_writes_each_row_once(
    embedded: Deployment,
    flags: tuple[str, ...],
    victims: tuple[str, ...],
    lines_file: Callable[[int], Path],
    tmp_path: Path,
) -> None:
    embedded.environment |= SLOWLY
    embedded.start_all()
    infile, outfile = lines_file(12_000), tmp_path / "out.json"
    assert kill_again_and_again(embedded, infile, outfile, 6, *flags, others=victims) > 2
    finish(embedded, infile, outfile, *flags)
    check_exactly_one_correct_row_per_line(outfile, 12_000)
    if flags:
        assert [row["line"] for row in rows(outfile)] == list(range(1, 12_001))


@pytest.mark.slow
@pytest.mark.parametrize("flags", [(), ("-k",)], ids=["as they end", "in order"])
def test_fifty_kills_in_one_run(
    deployment: Deployment, flags: tuple[str, ...], lines_file: Callable[[int], Path], tmp_path: Path
) -> None:
    # What a killed server or worker took along comes again after so many seconds; rows in order wait for it.
    deployment.environment |= {**SLOWLY, "DTS_DAEMONS_REPAIR_AFTER": "5"}
    deployment.start_all()
    infile, outfile = lines_file(200_000), tmp_path / "out.json"
    assert kill_again_and_again(deployment, infile, outfile, 50, *flags, others=("server", "worker")) > 40
    finish(deployment, infile, outfile, *flags, timeout=300)
    check_exactly_one_correct_row_per_line(outfile, 200_000)
    if flags:
        assert [row["line"] for row in rows(outfile)] == list(range(1, 200_001))


def test_an_interrupted_run_says_how_to_go_on_and_does(
    embedded: Deployment, lines_file: Callable[[int], Path], tmp_path: Path
) -> None:
    embedded.environment |= SLOWLY
    embedded.start_all()
    infile, outfile = lines_file(20_000), tmp_path / "out.json"
    embedded.start_client("text/upper", infile, outfile)
    wait_until(lambda: count_rows(outfile) >= 500, "the run to be under way")
    embedded.signal("client", signal.SIGINT)
    wait_until(lambda: "once more to leave at once" in embedded.log("client"), "the client to say so")
    embedded.signal("client", signal.SIGINT)
    assert embedded.wait("client") == 130, embedded.log("client")
    assert "; go on with: dts-client text/upper" in embedded.log("client")
    assert embedded.run_client("text/upper", infile, outfile).returncode == 255, "nothing is overwritten in silence"
    finish(embedded, infile, outfile)
    check_exactly_one_correct_row_per_line(outfile, 20_000)
    again = embedded.run_client("text/upper", infile, outfile, "--resume")
    assert (again.returncode, "every line has its row" in again.stderr) == (0, True)


@pytest.fixture
def half_done(embedded: Deployment, lines_file: Callable[[int], Path], tmp_path: Path) -> tuple[Deployment, Path, Path]:
    """A run whose client was killed in the middle, with its input and output."""
    embedded.environment |= SLOWLY
    embedded.start_all()
    infile, outfile = lines_file(5000), tmp_path / "out.json"
    embedded.start_client("text/upper", infile, outfile)
    wait_until(lambda: count_rows(outfile) >= 500, "the run to be under way")
    embedded.kill("client")
    return embedded, infile, outfile


def test_what_became_of_the_files_meanwhile_is_found(half_done: tuple[Deployment, Path, Path], tmp_path: Path) -> None:
    deployment, infile, outfile = half_done
    lines = infile.read_text().splitlines(keepends=True)

    def resume() -> str:
        done = deployment.run_client("text/upper", infile, outfile, "--resume")
        assert done.returncode == 255, done.stderr
        return done.stderr

    written = outfile.read_bytes()
    infile.write_text("".join([*lines[:9], "another\n", *lines[10:]]))
    assert "line 10 of the input is not what it was when the run began" in resume()
    infile.write_text("".join(lines[:30]))
    assert "the input ends after line 30, and had a line 31 when the run began" in resume()
    infile.write_text("".join(lines))
    outfile.write_bytes(written.replace(b"true", b"True", 1))
    assert "is not what was written" in resume()
    cut = len(written) // 2
    outfile.write_bytes(written[:cut])  # most likely in the middle of a row
    done = deployment.run_client("text/upper", infile, outfile, "--resume")
    assert done.returncode == 0, done.stderr
    check_exactly_one_correct_row_per_line(outfile, 5000)


def test_a_ledger_and_no_output_or_the_other_way_round(half_done: tuple[Deployment, Path, Path]) -> None:
    deployment, infile, outfile = half_done
    outfile.unlink()
    done = deployment.run_client("text/upper", infile, outfile, "--resume")
    assert done.returncode == 0, done.stderr
    check_exactly_one_correct_row_per_line(outfile, 5000)
    Path(f"{outfile}.dts").unlink()
    done = deployment.run_client("text/upper", infile, outfile, "--resume")
    assert (done.returncode, "--overwrite begins anew" in done.stderr) == (255, True)
    assert len(rows(outfile)) == 5000
