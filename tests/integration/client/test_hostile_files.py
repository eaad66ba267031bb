"""Inputs and outputs as they should not be: each has its clear row, or its clear message and exit status."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path

import pytest

from dts.client import cli
from dts.errors import ClientError, ConfigError
from dts.runtime.process import Shutdown
from tests.integration.client.test_run import FakeServer
from tests.integration.client.test_shapes import run, server, write
from tests.integration.test_closed_streams import CLIENT
from tests.integration.test_closed_streams import run as run_process

__all__ = ["server"]  # a fixture


def content(path: str = "out") -> bytes:
    return Path(path).read_bytes()


NOT_TEXT = "has bytes that are no character, or a lone surrogate"


@pytest.mark.parametrize(
    ("data", "results"),
    [
        (b"a\0b\n\0\n", ["A\0B", "\0"]),
        (b"a\n\xff\xfe\xfd\nb\n", ["A", "is not valid UTF-8: byte 1 of it", "B"]),
        (b"a\nxy\xed\xa0\x80\nb\n", ["A", NOT_TEXT, "B"]),
        ("a\nü\U0001f600\n".encode("utf-16"), ["A", "Ü\U0001f600"]),
        ("a\nü\U0001f600\n".encode("utf-32"), ["A", "Ü\U0001f600"]),
        (b"\0\0\xfe\xff" + "a\nü".encode("utf-32-be"), ["A", "Ü"]),
        ("a\nü\n".encode("utf-16")[:-1], ["A", NOT_TEXT]),
        (b"\xff\xfea\0\n\0\x00\xd8\n\0b\0\n\0", ["A", NOT_TEXT, "B"]),
        (b"a\r\nb\r\n", ["A", "B"]),
        ("a\u2028b\u0085c\x0cd\n".encode(), ["A\u2028B\u0085C\x0cD"]),
        (b"\xef\xbb\xbfa\n\xef\xbb\xbfb\n", ["A", "\ufeffB"]),
        (b"a\nb", ["A", "B"]),
        (b"", []),
        (b"\n\n", ["", ""]),
        (b"a\n" + b"x" * 5_000_000 + b"\nb\n", ["A", "is over the limit of 65536 bytes", "B"]),
    ],
)
async def test_each_line_has_its_row(data: bytes, results: list[str], server: FakeServer) -> None:
    failed = await run(server, data, "-k")
    rows = [json.loads(row) for row in content().split(b"\n")[:-1]]
    assert [row["line"] for row in rows] == list(range(1, len(results) + 1))
    assert [row["result"] if row["success"] else row["error"]["message"].removeprefix("the line ") for row in rows] == (
        results
    )
    assert failed == sum(not row["success"] for row in rows)


async def test_the_mark_of_an_encoding_may_come_a_byte_at_a_time(server: FakeServer) -> None:
    read, end = os.pipe()
    running = asyncio.create_task(run_on(server, f"/dev/fd/{read}", "--format", "{result}"))
    for byte in "a\nü\n".encode("utf-16"):
        os.write(end, bytes([byte]))
        await asyncio.sleep(0)
    os.close(end)
    assert await running == 0
    os.close(read)
    assert sorted(content().decode().split()) == ["A", "Ü"]


async def run_on(server: FakeServer, infile: str, *flags: str, outfile: str = "out") -> int:
    argv = ["text/upper", infile, outfile, server.url, *flags]
    return await cli.run(cli.build_parser().parse_intermixed_args(argv), Shutdown())


async def test_a_fifo_is_read_to_the_end_of_its_writer(server: FakeServer) -> None:
    os.mkfifo("fifo")
    writing = asyncio.create_task(asyncio.to_thread(Path("fifo").write_bytes, b"a\nb"))
    assert await run_on(server, "fifo") == 0
    await writing
    assert len(content().splitlines()) == 2


async def test_a_directory_without_files_and_one_as_outfile_are_refused(server: FakeServer) -> None:
    os.mkdir("folder")
    write("in.txt", b"a\n")
    with pytest.raises(ClientError, match="cannot read folder: there is no file in the directory"):
        await run_on(server, "folder")
    with pytest.raises(ClientError, match="cannot write folder: Is a directory"):
        await run_on(server, "in.txt", outfile="folder")
    assert server.requests == []


async def test_a_folder_that_takes_no_ledger_is_known_before_anything_is_sent(server: FakeServer) -> None:
    write("in.txt", b"a\n")
    with pytest.raises(ClientError, match=r"cannot write /proc/self/comm.dts, which notes how far the run is: "):
        await run_on(server, "in.txt", outfile="/proc/self/comm")
    assert server.requests == []


async def test_names_that_are_not_utf8_are_names(server: FakeServer) -> None:
    infile, outfile, errfile = (os.fsdecode(name) for name in (b"in\xff", b"out\xff", b"err\xff"))
    write(infile, b"a\nbad\n")
    assert await run_on(server, infile, "--errfile", errfile, outfile=outfile) == 1
    assert await run_on(server, infile, "--errfile", errfile, "--resume", outfile=outfile) == 1
    assert len(content(errfile).splitlines()) == 1
    with pytest.raises(ConfigError, match="--errfile was"):
        await run_on(server, infile, "--errfile", "err", "--resume", outfile=outfile)


@pytest.mark.parametrize(
    ("flag", "value", "reason"),
    [("--format", b"\xff{result}", "is not valid UTF-8"), ("--args", b'{"a": "\xff"}', "is not JSON")],
)
def test_options_that_are_not_utf8_are_refused(
    flag: str, value: bytes, reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main(["text/upper", "in", "out", "http://127.0.0.1:1", flag, os.fsdecode(value)])
    assert caught.value.code == 255
    assert reason in capsys.readouterr().err


async def test_a_full_disk_ends_the_run_and_with_room_it_goes_on(server: FakeServer) -> None:
    write("in.txt", b"".join(b"line %0100d\n" % number for number in range(1500)))
    argv = [*CLIENT, "in.txt", "out", server.url]
    status, said = await run_process(*argv, before="ulimit -f 40;")  # blocks of 512 bytes, or of 1024
    assert status == 255
    assert "go on with: dts-client text/upper --progress none in.txt out " in said
    assert "File too large" in said
    assert content().endswith(b"\n") or not content(), "no half row"
    status, said = await run_process(*argv, "--resume")
    assert (status, said.startswith("1500 lines: 1500 succeeded")) == (0, True)
    assert sorted(json.loads(row)["line"] for row in content().splitlines()) == list(range(1, 1501))
