"""Commands whose standard streams are not UTF-8, are shared with others, or do not block."""

from __future__ import annotations

import asyncio
import json
import os
import select
from pathlib import Path

import pytest

from tests.integration.client.test_run import FakeServer, server
from tests.integration.conftest import Site
from tests.integration.test_closed_streams import CLIENT, FULL, run, start

__all__ = ["server"]  # a fixture

ASCII = [{"PYTHONIOENCODING": "ascii"}, {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}]


@pytest.fixture(params=ASCII, ids=["PYTHONIOENCODING", "LC_ALL"])
def _only_ascii(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in request.param.items():
        monkeypatch.setenv(name, value)


@pytest.mark.usefixtures("_only_ascii")
@pytest.mark.parametrize("module", ["dts.client.cli", "dts.management.admin", "dts.server"])
async def test_help_is_printed_by_a_stream_that_has_only_ascii(module: str) -> None:
    process = await start(module, "--help")
    out, err = await process.communicate()
    assert (process.returncode, err) == (0, b"")
    assert b"usage: " in out


@pytest.mark.usefixtures("_only_ascii")
async def test_tables_and_rows_are_printed_by_a_stream_that_has_only_ascii(
    site: Site, server: FakeServer, tmp_path: Path
) -> None:
    await site.api().call(
        "POST", "/admin/namespaces/", {"id": "crm", "description": "G\u00fcter \u2192 \U0001f600"}, status=201
    )
    secret_file = str(site.settings.server.admin_secret_file)
    who = ["--username", "admin", "--secret-file", secret_file, "--url", site.url]
    process = await start("dts.management.admin", *who, "namespaces", "get", "crm")
    out, err = await process.communicate()
    assert (process.returncode, err) == (0, b"")
    assert rb"G\xfcter \u2192 \U0001f600" in out

    (tmp_path / "in.txt").write_text("\u00fc\n", encoding="utf-8")
    process = await start("dts.client.cli", "text/upper", str(tmp_path / "in.txt"), "-", server.url)
    out, err = await process.communicate()
    assert (process.returncode, json.loads(out)["result"]) == (0, "\u00dc"), (
        "rows are JSON in UTF-8, whatever the locale"
    )
    assert b"1 lines: 1 succeeded" in err


@pytest.mark.parametrize("outfile", ["-", "/dev/stdout", "/dev/fd/1"])
@pytest.mark.parametrize("how", [">", ">>"])
async def test_rows_and_messages_in_one_file_do_not_overwrite_one_another(
    how: str, outfile: str, server: FakeServer, tmp_path: Path
) -> None:
    infile, log = tmp_path / "in.txt", tmp_path / "log"
    infile.write_text("a\nb\n")
    log.write_text("before\n")
    status, _ = await run(*CLIENT, str(infile), outfile, server.url, closed=f"{how}{log} 2>&1")
    assert status == 0
    lines = log.read_text().splitlines()
    before = ["before"] if how == ">>" else []
    assert lines[: len(before)] == before
    assert sorted(json.loads(line)["result"] for line in lines if line.startswith("{")) == ["A", "B"]
    assert lines[-1].startswith("2 lines: 2 succeeded")
    assert len(lines) == len(before) + 3


@pytest.mark.parametrize(("redirected", "stream"), [(">{}", "standard output"), ("2>{}", "standard error")])
async def test_a_file_that_a_stream_goes_to_is_no_outfile(
    redirected: str, stream: str, server: FakeServer, tmp_path: Path
) -> None:
    infile, outfile = tmp_path / "in.txt", tmp_path / "out"
    infile.write_text("a\n")
    words = "text/upper", str(infile), str(outfile), server.url
    status, said = await run("dts.client.cli", *words, closed=redirected.format(outfile))
    assert status == 255
    assert f"is where {stream} goes, too" in said + outfile.read_text()
    assert server.requests == []


@pytest.mark.parametrize("outfile", ["-", "/dev/stderr"])
async def test_a_slow_reader_of_a_stream_that_does_not_block_gets_every_row(
    outfile: str, server: FakeServer, tmp_path: Path
) -> None:
    infile = tmp_path / "in.txt"
    infile.write_text("".join(f"line {n:0100d}\n" for n in range(2000)))
    read, write = os.pipe()
    os.set_blocking(write, False)
    stream = {"stdout" if outfile == "-" else "stderr": write}
    process = await start("dts.client.cli", "text/upper", str(infile), outfile, server.url, "--quiet", **stream)
    async with asyncio.timeout(120):
        while select.select([], [write], [], 0)[1] and process.returncode is None:  # until the pipe is full
            await asyncio.sleep(0.01)
    os.close(write)
    with open(read, "rb") as pipe:  # noqa: ASYNC230 - in a thread
        rows = (await asyncio.to_thread(pipe.read)).splitlines()
    assert await process.wait() == 0
    assert sorted(json.loads(row)["line"] for row in rows) == list(range(1, 2001))


@pytest.mark.skipif(not FULL.exists(), reason="there is no /dev/full here")
async def test_output_that_cannot_be_written_is_one_sentence() -> None:
    assert await run("dts.client.cli", "--help", closed=">/dev/full") == (
        255,
        "dts-client: cannot write standard output: No space left on device\n",
    )
