"""What INFILE may be: compressed, in UTF-16, several files, a table; and what is done to its lines."""

from __future__ import annotations

import bz2
import datetime
import gzip
import json
import lzma
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from dts.client import cli
from dts.errors import ClientError, ConfigError
from dts.runtime.process import Shutdown
from tests.integration.client.test_run import FakeServer
from tests.integration.client.test_shapes import read, run, server, write

__all__ = ["server"]  # a fixture

LINES = "".join(f"line {number} ü\n" for number in range(3000))


def arguments(server: FakeServer) -> list[list[object]]:
    """Positional and keyword arguments of each job, in order."""
    jobs = [job for number in sorted(server.blocks) for job in server.blocks[number].jobs]
    return [[json.loads(job.args or b"[]"), json.loads(job.kwargs or b"{}")] for job in jobs]


@pytest.mark.parametrize(
    "pack",
    [
        lambda data: gzip.compress(data[:5000]) + gzip.compress(data[5000:]),
        bz2.compress,
        lzma.compress,
        lambda data: b"\xff\xfe" + data.decode().encode("utf-16-le"),
        lambda data: gzip.compress(b"\xfe\xff" + data.decode().encode("utf-16-be")),
    ],
    ids=["gzip, two members", "bzip2", "xz", "utf-16", "utf-16 in gzip"],
)
async def test_what_a_file_is_is_known_by_its_first_bytes(server: FakeServer, pack: Callable[[bytes], bytes]) -> None:
    assert await run(server, pack(LINES.encode()), "-k", "--format", "{result}") == 0
    assert read() == LINES.upper()


async def test_a_compressed_file_that_was_cut_ends_the_run(server: FakeServer) -> None:
    with pytest.raises(ClientError, match=r"cannot decompress in.txt"):
        await run(server, gzip.compress(LINES.encode())[:-20])


async def test_few_bytes_that_become_many_are_read_a_piece_at_a_time(server: FakeServer) -> None:
    assert await run(server, gzip.compress(b"\0" * 50_000_000), "--head", "1") == 1
    assert "over the limit" in read()


async def test_several_files_and_folders_are_one_input(server: FakeServer, tmp_path: Path) -> None:
    (tmp_path / "more").mkdir()
    write("more/b", b"b1\nb2")
    write("more/a", b"a1")
    assert await run(server, "first", "--infile", "more", "-k", "--format", "{line} {result}") == 0
    assert read() == "1 FIRST\n2 A1\n3 B1\n4 B2\n"


async def test_lines_that_end_with_a_null_byte(server: FakeServer) -> None:
    assert await run(server, "a\nb\0c\r\n\0d", "-0") == 0
    assert [args for args, _ in arguments(server)] == [["a\nb"], ["c\r\n"], ["d"]]


async def test_a_table_is_keyword_arguments(server: FakeServer) -> None:
    table = 'name,text\r\nann,"two\nlines, ""quoted"""\r\n\r\nbob,short,more\ncy,\u2028\n"open,'
    assert await run(server, table, "--input-format", "csv", "-k", "--args", '{"lang": "en", "name": "x"}') == 2
    assert [kwargs for _, kwargs in arguments(server)] == [
        {"lang": "en", "name": "ann", "text": 'two\nlines, "quoted"'},
        {"lang": "en", "name": "cy", "text": "\u2028"},
    ]
    assert [json.loads(row)["success"] for row in read().splitlines()] == [True, False, True, False]


async def test_a_start_position_and_the_first_lines_only(server: FakeServer) -> None:
    flags = ("--infile-start-position", "4", "--head", "2", "--args", '{"lang": "en"}')
    assert await run(server, "one\ntwo\nthree\nfour\n", *flags) == 0
    assert arguments(server) == [[["two"], {"lang": "en"}], [["three"], {"lang": "en"}]]


async def test_what_a_run_asks_of_its_attempts_is_said_when_it_is_opened(
    server: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    flags = ("--timeout", "5", "--max-attempts", "2", "--retry-on", "OSError,KeyError", "--not-before", "1000")
    flags += ("--code", "3f2a91", "--priority", "9", "--weight", "0.5", "--notify", "me", "--notify", "https://h/x")
    assert await run(server, "a\n", *flags) == 0
    asked = {"timeout": 5.0, "max_attempts": 2, "retry_on": ["OSError", "KeyError"], "not_before": 1000.0}
    asked |= {"version": "3f2a91", "priority": 9, "weight": 0.5, "notify": ["me", "https://h/x"]}
    assert server.opened == {"function": "text/upper", **asked}


@pytest.mark.parametrize(
    "flags",
    [
        ["--args", "[1]"],
        ["--args", "{"],
        ["--deadline", "soon"],
        ["--head", "0"],
        ["--priority", "10"],
        ["--weight", "0"],
        ["--plot", "out.pdf"],
    ],
)
def test_a_value_that_is_none_is_refused(flags: list[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["text/upper", "in", "out", "http://127.0.0.1:1", *flags])


async def test_parquet_says_what_it_needs(server: FakeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ClientError, match=r"in.txt is a Parquet file: give --input-format parquet"):
        await run(server, b"PAR1" + b"\0" * 100)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(ConfigError, match=r"pip install 'dts-scheduler\[parquet\]'"):
        await run(server, b"PAR1", "--input-format", "parquet", "--overwrite")


async def test_a_parquet_file_is_keyword_arguments(server: FakeServer) -> None:
    import pyarrow as arrow
    from pyarrow import parquet

    when = datetime.datetime(2026, 11, 28, 17, 0)
    columns = {"no": [*range(700)], "text": ["\u00fc", None] * 350, "at": [when] * 700, "raw": [b"\xff"] * 700}
    parquet.write_table(arrow.table(columns), "table")
    argv = ["text/upper", "table", "out", server.url, "--input-format", "parquet"]
    assert await cli.run(cli.build_parser().parse_args(argv), Shutdown()) == 0
    given = [kwargs for _, kwargs in arguments(server)]
    assert given[1] == {"no": 1, "text": None, "at": "2026-11-28T17:00:00", "raw": "/w=="}
    assert [each["no"] for each in given] == [*range(700)]
    with pytest.raises(ClientError, match=r"cannot read in.txt as Parquet"):
        await run(server, b"not parquet", "--input-format", "parquet", "--overwrite")


async def test_what_does_not_go_together_is_refused(server: FakeServer) -> None:
    with pytest.raises(ConfigError, match="are read from the first row of one file"):
        await run(server, "a\n", "--input-format", "csv", "-0")
