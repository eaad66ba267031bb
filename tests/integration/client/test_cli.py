"""The command `dts-client`: what it refuses, what it says, what it exits with."""

from __future__ import annotations

import asyncio
import gzip
import os
import shlex
import signal
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest

from dts.client import DailyRotatingOutputFile, DtsClient, OutputFile, cli
from dts.client.command.options import EXAMPLES
from dts.errors import ClientError, ConfigError, RequestRefused, ServerUnavailable
from dts.model import new_id
from dts.runtime.process import Shutdown
from tests.integration.client.test_run import FakeServer, Handler, server

__all__ = ["server"]  # a fixture

NOWHERE = "http://127.0.0.1:1"


@pytest.fixture(autouse=True)
def _alice(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DTS_USERNAME", "alice")
    monkeypatch.setenv("DTS_SECRET", "secret")
    monkeypatch.delenv("DTS_SECRET_FILE", raising=False)
    monkeypatch.delenv("DTS_SERVER_URL", raising=False)
    monkeypatch.setattr("dts.client.run.send.IDLE_FLUSH", 0.005)
    monkeypatch.setattr("dts.client.run.watch.LOOK_INTERVAL", 3600.0)  # a slow machine says nothing of its own accord
    monkeypatch.setattr("dts.client.command.screen.LINE_INTERVAL", 3600.0)
    monkeypatch.chdir(tmp_path)
    write("in.txt", "a\nb\n")


async def run(*argv: str, shutdown: Shutdown | None = None) -> int:
    """What `main` does, within this event loop."""
    return await cli.run(cli.build_parser().parse_args(argv), shutdown or Shutdown())


def write(path: str, text: str) -> None:
    Path(path).write_text(text)


def read(path: str) -> str:
    return Path(path).read_text()


def rows(path: str = "out.json") -> list[dict[str, Any]]:
    return msgspec.json.Decoder(dict[str, Any]).decode_lines(Path(path).read_bytes())


async def test_a_run_ends_with_a_summary(server: FakeServer, capsys: pytest.CaptureFixture[str]) -> None:
    assert await run("text/upper", "in.txt", "out.json", server.url) == 0
    assert [row["result"] for row in rows()] == ["A", "B"]
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("2 lines: 2 succeeded, 0 failed in ")
    assert said.err.endswith("/s) → out.json\n")


async def test_failed_lines_are_told_by_the_exit_status(server: FakeServer, capsys: pytest.CaptureFixture[str]) -> None:
    write("in.txt", "a\nbad\n")
    argv = (
        "text/upper",
        "in.txt",
        "out.json",
        server.url,
        "--errfile",
        "err.json",
        "--fields",
        "id,attempt",
        "--quiet",
    )
    assert await run(*argv) == 1
    assert [row["line"] for row in rows()] == [1]
    assert [(row["line"], row["attempt"]) for row in rows("err.json")] == [(2, 1)]
    assert capsys.readouterr().err == ""


async def test_the_summary_has_what_failed_most_and_where_first(
    server: FakeServer, capsys: pytest.CaptureFixture[str]
) -> None:
    with open("in.txt", "wb") as file:  # noqa: ASYNC230 - a few bytes
        file.write(b"a\nbad\n\xff\nbad\n")
    assert await run("text/upper", "in.txt", "out.json", server.url) == 3
    assert capsys.readouterr().err.splitlines()[1:] == [
        '  2 × ValueError: a "bad" line (first in line 2)',
        "  1 × ComponentError: the line is not valid UTF-8: byte 1 of it (first in line 3)",
    ]


async def test_each_input_format(server: FakeServer) -> None:
    write("in.txt", '["x", {}]\n')
    await run("text/upper", "in.txt", "out.json", server.url, "--input-format", "json")
    assert server.blocks[0].jobs[0].args == b'["x", {}]'


async def test_a_progress_bar_when_it_is_asked_for(server: FakeServer, capsys: pytest.CaptureFixture[str]) -> None:
    server.faults["POST /runs/"].append(lambda handler: handler.error(503, "away", "wait", Retry_After="0"))
    assert await run("text/upper", "in.txt", "out.json", server.url, "--progress") == 0
    said = capsys.readouterr().err
    assert "is not ready (503 wait); waiting" in said.replace("\n", "")
    assert "2 lines: 2 succeeded" in said


async def test_rotating_output_is_named_after_the_day(server: FakeServer, capsys: pytest.CaptureFixture[str]) -> None:
    await run("text/upper", "in.txt", "out.json", server.url, "--rotate-daily")
    [path] = [name for name in os.listdir() if name.startswith("out-")]
    assert len(rows(path)) == 2
    assert capsys.readouterr().err.endswith(f"→ {path}\n")


async def test_what_the_server_refuses_leaves_an_old_output_alone(server: FakeServer) -> None:
    write("out.json", "precious\n")
    with pytest.raises(RequestRefused, match="there is no function text/unknown"):
        await run("text/unknown", "in.txt", "out.json", server.url)
    assert read("out.json") == "precious\n"


@pytest.mark.parametrize("rotating", [[], ["--rotate-daily"]])
@pytest.mark.parametrize("taken", ["out.json", "err.json"])
async def test_files_that_another_client_writes_are_left_alone(
    taken: str, rotating: list[str], server: FakeServer
) -> None:
    other = (DailyRotatingOutputFile if rotating else OutputFile)(taken)
    other.begin()
    other.write(b"precious\n")
    with pytest.raises(ClientError, match=f"cannot write {other.name}: it is being written by another dts-client"):
        await run("text/upper", "in.txt", "out.json", server.url, "--errfile", "err.json", *rotating)
    assert read(other.name) == "precious\n"
    assert server.requests == []
    other.close()


@pytest.mark.parametrize(
    ("flags", "state", "said"),
    [
        ([], "open", "go on with: dts-client '…' --resume"),
        (["--cancel-on-interrupt"], "cancelled", "of 2 or more lines; the run is cancelled"),
    ],
)
async def test_being_told_to_stop_leaves_the_run_open_unless_it_is_to_be_cancelled(
    flags: list[str], state: str, said: str, server: FakeServer, capsys: pytest.CaptureFixture[str]
) -> None:
    shutdown = Shutdown()

    def stop(handler: Handler) -> bool:
        shutdown.signal = signal.SIGTERM
        shutdown.requested.set()
        return False

    server.faults["PUT /runs/ID/blocks/0"].append(stop)
    read, write = os.pipe()
    os.write(write, b"a\nb\n")
    status = await run("text/upper", f"/dev/fd/{read}", "out.json", server.url, *flags, shutdown=shutdown)
    assert (status, server.state) == (128 + signal.SIGTERM, state)
    assert said in capsys.readouterr().err
    if not flags:
        assert [row["result"] for row in rows()] == ["A", "B"], "what was under way is collected"
    os.close(write)
    os.close(read)


async def test_the_command_that_collects_without_a_ledger_has_credentials_and_shape(
    server: FakeServer, capsys: pytest.CaptureFixture[str]
) -> None:
    write("my secret", "secret\n")
    flags = ["--username", "alice", "--secret-file", "my secret", "--fields", "id,attempt", "--format", "{id} {result}"]
    assert await run("text/upper", "in.txt", "/dev/null", server.url, "--detach", *flags) == 0
    command = shlex.split(capsys.readouterr().err.rpartition("with: ")[2])
    assert command[:5] == ["dts-client", "attach", server.run_id, "/dev/null", server.url]
    options = cli.build_attach_parser().parse_intermixed_args(command[2:])
    assert (options.username, options.secret_file, options.fields) == ("alice", "my secret", ["id", "attempt"])
    assert options.format == "{id} {result}"


@pytest.mark.parametrize(
    ("argv", "error", "reason"),
    [
        (["text/upper", "missing", "out", NOWHERE], ClientError, "cannot read missing: No such file"),
        (["text/upper", "in.txt", "no/dir/out", NOWHERE], ClientError, "cannot write no/dir/out: No such file"),
        (["text/upper", "in.txt", "./in.txt", NOWHERE], ConfigError, "is INFILE, too"),
        (["text/upper", "in.txt", "out", NOWHERE, "--errfile", "in.txt"], ConfigError, "is INFILE, too"),
        (["text/upper", "in.txt", "out", NOWHERE, "--errfile", "./out"], ConfigError, "the same file"),
        (
            ["text/upper", "in.txt", "out", NOWHERE, "--errfile", "./out", "--rotate-daily"],
            ConfigError,
            "the same file",
        ),
        (["text/upper", "in.txt", "out", "127.0.0.1:1"], ConfigError, "write http://host:port"),
        (["text/upper", "in.txt", "out", NOWHERE, "--secret-file", "none"], ConfigError, "cannot read the secret"),
    ],
)
async def test_what_cannot_work_is_refused_before_anything_is_sent(
    argv: list[str], error: type[Exception], reason: str
) -> None:
    with pytest.raises(error, match=reason):
        await run(*argv)
    assert read("in.txt") == "a\nb\n"


@pytest.mark.parametrize(
    ("argv", "reason"),
    [
        (["Text/upper", "in.txt", "out", NOWHERE], "is not a function name"),
        (["text/upper", "in.txt", "out"], "SERVER_URL is missing"),
        (["text/upper", "in.txt", "out", NOWHERE, "--fields", "nope"], "there is no field 'nope'"),
        (["text/upper", "in.txt", "out", NOWHERE, "--coroutines", "0"], "whole number above 0"),
        (["text/upper", "in.txt", "out", NOWHERE, "--snooze", "nan"], "is no duration"),
        (["text/upper", "in.txt", "out", NOWHERE, "--input-format", "xml"], "invalid choice"),
    ],
)
def test_a_wrong_command_line_exits_with_255(argv: list[str], reason: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main(argv)
    assert caught.value.code == 255
    assert reason in capsys.readouterr().err


def test_the_server_is_the_one_that_was_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    kept = tmp_path / ".config" / "dts" / "credentials.toml"
    kept.parent.mkdir(parents=True)
    kept.write_text(f'url = "{NOWHERE}"\n')
    assert cli.main(["text/upper", "in.txt", "out", "--give-up-after", "0"]) == 255
    kept.write_text("url = \n")
    with pytest.raises(SystemExit) as caught:
        cli.main(["text/upper", "in.txt", "out"])
    assert caught.value.code == 255


def test_an_error_is_one_sentence_and_exits_with_255(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["text/upper", "in.txt", "out", NOWHERE, "--give-up-after", "0"]) == 255
    assert "is not reachable (connection refused); gave up after 0 s" in capsys.readouterr().err


async def test_a_server_that_speaks_first_is_not_reachable_over_tls() -> None:
    mail = await asyncio.start_server(lambda reader, writer: writer.write(b"220 mail.example\r\n"), "127.0.0.1", 0)
    url = f"https://127.0.0.1:{mail.sockets[0].getsockname()[1]}"
    async with DtsClient("alice", "secret", url, give_up_after=1) as client:
        with pytest.raises(ServerUnavailable, match="is not reachable"):
            await client.submit("text/upper", "x")
    mail.close()


async def test_each_try_over_tls_that_fails_is_not_a_line_of_its_own() -> None:
    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(b"HTTP/1.1 400 No\r\n\r\n")

    http = await asyncio.start_server(refuse, "127.0.0.1", 0)
    url = f"https://127.0.0.1:{http.sockets[0].getsockname()[1]}"
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "dts.client.cli", "text/upper", "in.txt", "out.json", url),
        *("--give-up-after", "3", "--progress", "none"),
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    said = (await process.communicate())[1].decode().splitlines()
    assert process.returncode == 255
    assert "does not speak TLS" in said[-1]
    assert "; gave up after 3 s" in said[-1]
    assert all("; waiting" in line for line in said[:-1])
    assert len(said) <= 3, "it tried a dozen times, and learnt why not at the second try at the latest"
    http.close()


def printed(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    """What a command prints that ends with its arguments."""
    with pytest.raises(SystemExit) as caught:
        cli.main(argv)
    assert not caught.value.code
    return capsys.readouterr().out


def test_the_help_fits_on_a_screen(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    said = printed(capsys, "--help").splitlines()
    assert len(said) <= 50
    assert max(map(len, said)) <= 120


def test_the_full_help_has_every_option_and_exit_status(capsys: pytest.CaptureFixture[str]) -> None:
    said = printed(capsys, "--help-all")
    for status in ("0", "1-100", "129 130 143", "255"):
        assert f"\n  {status} " in said
    for action in cli.build_parser()._actions:
        assert not action.option_strings or action.option_strings[-1] in said


async def test_every_example_of_the_help_runs(server: FakeServer, capfd: pytest.CaptureFixture[str]) -> None:
    write("pairs.json", "[1, 2]\n")
    with gzip.open("in.txt.gz", "wt") as file:
        file.write("a\n")
    examples = EXAMPLES.splitlines()[1:]
    assert len(examples) == 4
    for example in examples:
        server.blocks.clear()
        server.parts.clear()
        server.run_id = new_id()
        program, *words = shlex.split(example)
        assert program == "dts-client"
        assert await run(*(server.url if word.startswith("http") else word for word in words)) == 0, example
        if "math/add" in words:
            assert server.blocks[0].jobs[0].args == b"[1, 2]", "numbers are numbers"
    assert capfd.readouterr().out == "1 A\n"


@pytest.mark.parametrize(("words", "kind"), [(["--progress"], "bar"), (["--progress", "json"], "json")])
def test_the_kind_of_progress_need_not_be_named(words: list[str], kind: str) -> None:
    argv = [*words, "text/upper", "in.txt", "out.json"]
    options = cli.build_parser().parse_intermixed_args(argv)
    assert (options.progress, options.function, options.server_url) == (kind, "text/upper", None)


async def test_standard_streams_of_a_real_process(server: FakeServer) -> None:
    """The only test with a process of its own: `-` for both files, the URL from the environment, uvloop."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "dts.client.cli", "text/upper", "-", "-", "--quiet"),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, "DTS_SERVER_URL": server.url, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    out, err = await process.communicate(b"a\r\nb")
    assert (process.returncode, err) == (0, b"")
    assert sorted(msgspec.json.decode(row)["result"] for row in out.splitlines()) == ["A", "B"]
