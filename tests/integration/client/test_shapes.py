"""What rows look like, and in which order they come."""

from __future__ import annotations

import json
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from dts.client import cli
from dts.client.run.ledger_state import load_ledger
from dts.errors import ConfigError
from dts.runtime.process import Shutdown
from tests.integration.client.test_run import FakeServer, Handler


@pytest.fixture
async def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> AsyncIterator[FakeServer]:
    monkeypatch.setenv("DTS_USERNAME", "alice")
    monkeypatch.setenv("DTS_SECRET", "secret")
    monkeypatch.setattr("dts.client.run.send.IDLE_FLUSH", 0.005)
    monkeypatch.chdir(tmp_path)
    server = FakeServer()
    server.start()
    yield server
    server.http.stop()
    await server.http.close_all_connections()


def write(path: str, data: bytes) -> None:
    Path(path).write_bytes(data)


def read() -> str:
    return Path("out").read_text()


async def run(server: FakeServer, text: str | bytes, *flags: str, infile: str = "in.txt") -> int:
    """The exit status of a run over `text`."""
    write(infile, text if isinstance(text, bytes) else text.encode())
    argv = ["text/upper", infile, "out", server.url, *flags]
    return await cli.run(cli.build_parser().parse_intermixed_args(argv), Shutdown())


@pytest.mark.parametrize("window", [3, 100_000])
async def test_rows_in_the_order_of_the_input(server: FakeServer, window: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dts.client.order.MAX_HELD_ROWS", window)
    lines = [b"\xff" if number % 50 == 7 else b"line %d" % number for number in range(1000)]
    assert await run(server, b"\n".join(lines), "-k", "--format", "{line} {result}") == 20
    assert read().splitlines() == [
        f"{number + 1} " + ("" if number % 50 == 7 else f"LINE {number}") for number in range(1000)
    ]


async def test_a_line_of_text_or_columns_for_each_row(server: FakeServer) -> None:
    assert await run(server, 'a "b"\nbad\n', "-k", "--output-format", "csv", "--fields", "attempt") == 1
    assert read() == (
        "line,success,result,error,duration,attempt\n"
        '1,true,"A ""B""",,0.0004,1\n'
        '2,false,,"ValueError: a ""bad"" line",0.0004,1\n'
    )


@pytest.mark.parametrize("flags", [(), ("--resume",), ("--output-format", "csv"), ("--format", "{custom_id} {line}")])
async def test_a_column_of_the_input_is_the_name_of_its_row(flags: tuple[str, ...], server: FakeServer) -> None:
    table = "no,text\n7,a\nx y,b\n8\n"
    flags = ("--input-format", "csv", "--id-field", "no", "-k", *flags)
    if "--resume" not in flags:
        assert await run(server, table, *flags) == 1
    else:
        assert await run(server, table, *flags[:-1], "--detach") == 0
        assert await run(server, table, *flags) == 1
    assert [json.loads(job.kwargs) for job in server.blocks[0].jobs] == [{"text": "a"}, {"text": "b"}]
    rows = read().splitlines()
    if "--format" in flags:
        assert rows == ["7 1", "x y 2", " 3"]
    elif "--output-format" in flags:
        assert rows[0].endswith(",custom_id")
        assert [row.rpartition(",")[2] for row in rows[1:]] == ["7", "x y", ""]
    else:
        assert [json.loads(row)["custom_id"] for row in rows] == ["7", "x y", None]


async def test_a_line_of_text_has_no_columns(server: FakeServer) -> None:
    with pytest.raises(ConfigError, match="--id-field names a column"):
        await run(server, "a\n", "--id-field", "no")


async def test_a_format_that_is_none_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    for text in ("{nope}", "{result"):
        with pytest.raises(SystemExit):
            cli.main(["text/upper", "in", "out", "http://127.0.0.1:1", "--format", text])
    assert "there is no field 'nope'" in capsys.readouterr().err


async def test_a_line_over_a_proxys_limit_fails_by_itself(server: FakeServer, tmp_path: Path) -> None:
    def limited(handler: Handler) -> bool:
        if len(handler.request.body) > 5000:
            handler.set_status(413)
            handler.finish("<html>nginx</html>")
            return True
        return False

    for number in range(200):
        server.faults[f"PUT /runs/ID/blocks/{number}"].extend([limited] * 3)
    lines = [f"{number} " + "x" * (6000 if number == 70 else 100) for number in range(300)]
    assert await run(server, "\n".join(lines), "-k") == 1
    rows = [json.loads(row) for row in read().splitlines()]
    assert [row["line"] for row in rows] == list(range(1, 301))
    assert "a proxy on the way to the server takes no body of " in rows[70]["error"]["message"]
    state = load_ledger("out.dts", ("out", None))
    assert state is not None
    assert state.finished
    assert not state.lost_lines


@pytest.mark.parametrize("name", ["-", "/dev/null"])
async def test_what_is_no_file_has_no_day_in_its_name(
    server: FakeServer, name: str, tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    write("in.txt", b"a\n")
    argv = ["text/upper", "in.txt", name, server.url, "--rotate-daily"]
    assert await cli.run(cli.build_parser().parse_intermixed_args(argv), Shutdown()) == 0
    assert os.listdir() == ["in.txt"]
    assert (b'"A"' in capfdbinary.readouterr().out) == (name == "-")
