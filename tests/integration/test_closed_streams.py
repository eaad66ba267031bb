"""Commands whose standard streams were closed, by a reader that has seen enough (`| head`) or from the start (`<&-`).

They end quietly, with their own exit status.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.client.test_run import FakeServer, server
from tests.integration.conftest import Site
from tests.services.base import free_port
from tests.services.waiting import within

__all__ = ["server"]  # a fixture

FULL = Path("/dev/full")

CLIENT = "dts.client.cli", "text/upper", "--progress", "none"
"""A run that says nothing of how far it is, however slow the machine."""


@pytest.fixture
def nobody() -> Iterator[int]:
    """The end to write to of a pipe that nobody reads."""
    read, write = os.pipe()
    os.close(read)
    yield write
    os.close(write)


async def start(
    *argv: str,
    stdout: int = asyncio.subprocess.PIPE,
    stderr: int = asyncio.subprocess.PIPE,
    closed: str = "",
    before: str = "",
) -> asyncio.subprocess.Process:
    """A process with these streams, without those that are `closed` in the words of a shell, which does `before`."""
    return await asyncio.create_subprocess_exec(
        *("sh", "-c", f'{before} exec "$@" {closed}', "sh", sys.executable, "-m", *argv),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=stdout,
        stderr=stderr,
        env={**os.environ, "DTS_USERNAME": "alice", "DTS_SECRET": "secret"},
    )


async def run(*argv: str, **how: Any) -> tuple[int, str]:
    """A process, to its end; returns its exit status and what it says on stderr."""
    process = await start(*argv, **how)
    said = await process.communicate()
    assert process.returncode is not None
    return process.returncode, (said[1] or b"").decode()


@pytest.mark.parametrize(
    ("words", "status"),
    [
        (["users", "get"], 0),
        (["--json", "operations", "list"], 0),
        (["namespaces", "add", "crm"], 0),
        (["users", "get", "nobody"], 1),
        (["doctor"], 1),
        (["help"], 0),
        (["--help"], 0),
    ],
)
async def test_an_administrators_command_does_not_mind(site: Site, nobody: int, words: list[str], status: int) -> None:
    secret_file = str(site.settings.server.admin_secret_file)
    who = ["--username", "admin", "--secret-file", secret_file, "--url", site.url]
    ended, said = await run("dts.management.admin", *who, *words, stdout=nobody)
    assert ended == status
    assert "Traceback" not in said
    assert "Exception" not in said
    assert not said or status == 1


async def test_a_complaint_that_nobody_reads_leaves_the_exit_status_as_it_is(nobody: int) -> None:
    assert (await run("dts.management.admin", "usres", "get", stderr=nobody))[0] == 2
    assert (await run("dts.client.cli", "--help", stdout=nobody))[0] == 0


@pytest.mark.skipif(not FULL.exists(), reason="there is no /dev/full here")
async def test_what_cannot_be_written_is_one_sentence() -> None:
    full = os.open(FULL, os.O_WRONLY)
    ended, said = await run("dts.management.admin", "help", stdout=full)
    os.close(full)
    assert (ended, said) == (1, "dts-admin: cannot write standard output: No space left on device\n")


async def test_rows_that_nobody_reads_end_a_run_quietly(server: FakeServer, nobody: int, tmp_path: Path) -> None:
    infile = tmp_path / "in.txt"
    infile.write_text("a\nb\n")
    ended, said = await run(*CLIENT, str(infile), "-", server.url, stdout=nobody)
    assert (ended, said) == (141, "")
    assert any(request.startswith("DELETE ") for request in server.requests)


async def test_rows_of_a_run_that_has_finished_need_no_word_either(
    server: FakeServer, nobody: int, tmp_path: Path
) -> None:
    server.faults["DELETE /runs/ID"].append(lambda handler: handler.error(409, "run_ended", "it has finished already"))
    infile = tmp_path / "in.txt"
    infile.write_text("a\nb\n")
    assert await run(*CLIENT, str(infile), "-", server.url, stdout=nobody) == (141, "")


# streams that were closed from the start


@pytest.mark.parametrize("closed", ["<&-", "<&- >&-", "<&- >&- 2>&-"])
async def test_a_run_needs_no_streams_that_it_does_not_use(closed: str, server: FakeServer, tmp_path: Path) -> None:
    (tmp_path / "in.txt").write_text("a\nb\n")
    files = str(tmp_path / "in.txt"), str(tmp_path / "out.json")
    ended, said = await run(*CLIENT, *files, server.url, closed=closed)
    assert ended == 0, said
    assert said.startswith("2 lines: 2 succeeded") or "2>" in closed
    assert len((tmp_path / "out.json").read_text().splitlines()) == 2


async def test_a_standard_input_that_is_closed_is_no_empty_input(server: FakeServer, tmp_path: Path) -> None:
    outfile = tmp_path / "out.json"
    outfile.write_text("precious\n")
    ended = await run("dts.client.cli", "text/upper", "-", str(outfile), server.url, closed="<&-")
    assert ended == (255, "dts-client: cannot read standard input: it is closed\n")
    assert outfile.read_text() == "precious\n"
    assert server.requests == []


@pytest.mark.parametrize(("words", "status"), [(["whoami"], 0), ([], 0), (["users", "delete", "nobody"], 2)])
async def test_an_administrator_needs_no_standard_input(site: Site, words: list[str], status: int) -> None:
    secret_file = str(site.settings.server.admin_secret_file)
    who = ["--username", "admin", "--secret-file", secret_file, "--url", site.url]
    ended, said = await run("dts.management.admin", *who, *words, closed="<&-")
    assert ended == status, said
    assert "Traceback" not in said


@pytest.mark.parametrize(
    ("module", "ready"),
    [
        ("dts.server", ["serving on"]),
        ("dts.worker", ["2 processes"]),
        ("dts.server.daemons", ["running porter"]),
        ("dts", ["serving on", "2 processes"]),
    ],
)
async def test_a_process_needs_no_standard_input(
    module: str, ready: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, value in {
        "DTS_SERVER_PORT": str(free_port()),
        "DTS_WORKER_PROCESSES": "2",
        "PYTHONPATH": os.pathsep.join(sys.path),
    }.items():
        monkeypatch.setenv(name, value)
    process = await start(module, closed="<&-")
    assert process.stderr is not None
    said = ""
    try:
        async with within():
            while not all(words in said for words in ready):
                line = (await process.stderr.readline()).decode()
                assert line, said
                assert "starting it again" not in line, said
                said += line
    finally:
        if process.returncode is None:
            process.terminate()
        async with within():
            said += (await process.communicate())[1].decode()
    assert process.returncode == 0, said
