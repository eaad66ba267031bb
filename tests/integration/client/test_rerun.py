"""Runs beside rows that are there: `--changed` and `--retry-failed`."""

from __future__ import annotations

import json
import os
import resource
from pathlib import Path
from typing import Any

import pytest

from dts.errors import ClientError, ConfigError, InputChanged
from dts.model import new_id
from tests.integration.client.test_run import FakeServer
from tests.integration.client.test_shapes import run, server, write

__all__ = ["server"]  # a fixture


def rows(path: str = "out") -> list[dict[str, Any]]:
    return [json.loads(row) for row in Path(path).read_text().splitlines()]


def files() -> dict[str, bytes]:
    """What OUTFILE and the files beside it have."""
    return {path.name: path.read_bytes() for path in Path().glob("out*")}


def results() -> list[str | None]:
    """The result of each line, which must have exactly one row."""
    found = {row["line"]: row.get("result") for row in rows()}
    assert len(found) == len(rows())
    return [found[line] for line in range(1, len(found) + 1)]


def next_run(server: FakeServer) -> list[str]:
    """Forget the jobs of the runs so far, whose arguments are returned."""
    jobs = [job for number in sorted(server.blocks) for job in server.blocks[number].jobs]
    server.blocks.clear()
    server.parts.clear()
    server.run_id = new_id()
    return [json.loads(job.args)[0] for job in jobs]


@pytest.mark.parametrize("flags", [(), ("-k",), ("--args", '{"a": 1}')])
async def test_only_lines_that_are_new_or_differ_are_run(server: FakeServer, flags: tuple[str, ...]) -> None:
    lines = [f"line {number}" for number in range(1000)]
    assert await run(server, "\n".join(lines), *flags) == 0
    next_run(server)
    lines[500:500] = ["new"]
    lines[10] = "other"
    del lines[900]
    assert await run(server, "\n".join([*lines, "last"]), "--changed", *flags) == 0
    assert next_run(server) == ["other", "new", "last"]
    assert results() == [line.upper() for line in [*lines, "last"]]
    if flags == ("-k",):
        assert [row["line"] for row in rows()] == list(range(1, 1002))
    assert await run(server, "\n".join([*lines, "last"]), "--changed", *flags) == 0
    assert next_run(server) == []


@pytest.mark.parametrize("flags", [(), ("-k",), ("--errfile", "err")])
async def test_only_what_failed_is_run_again(server: FakeServer, flags: tuple[str, ...]) -> None:
    text = b"a\nbad\n\xff\nb\nbad\nc\n"
    assert await run(server, text, *flags) == 3
    next_run(server)
    server.bad = "good now"
    assert await run(server, text, "--retry-failed", *flags) == 1
    assert next_run(server) == ["bad", "bad"]
    succeeded = [row["line"] for row in rows() if row["success"]]
    assert sorted(succeeded) == [1, 2, 4, 5, 6]
    if "--errfile" in flags:
        assert [row["line"] for row in rows("err")] == [3]
    else:
        assert len(rows()) == 6


async def test_what_cannot_be_kept_is_refused(server: FakeServer) -> None:
    with pytest.raises(ConfigError, match="holds no run"):
        await run(server, "a\n", "--changed")
    await run(server, "a\nb\n")
    with pytest.raises(InputChanged, match="line 2 of the input is not what it was"):
        await run(server, "a\nc\n", "--retry-failed")
    assert results() == ["A", "B"]


async def test_a_client_that_dies_between_the_ledger_and_the_output_goes_on(
    server: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    await run(server, "a\nb\nc\n")
    next_run(server)

    def die(source: str, target: str) -> None:
        if target == "out":
            raise ClientError("dead")
        os.rename(source, target)

    with monkeypatch.context() as patch:
        patch.setattr("os.replace", die)
        with pytest.raises(ClientError, match="dead"):
            await run(server, "a\nx\nc\n", "--changed")
    assert await run(server, "a\nx\nc\n", "--resume") == 0
    assert results() == ["A", "X", "C"]


@pytest.mark.parametrize("flag", ["--changed", "--retry-failed"])
async def test_a_full_disk_leaves_everything_as_it_was(server: FakeServer, flag: str) -> None:
    text = "\n".join(f"line {number}" for number in range(500))
    assert await run(server, text) == 0
    before = files()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
    try:
        with pytest.raises(ClientError, match=r"cannot write out\.dts-new: File too large"):
            await run(server, text, flag)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert files() == before, "and there is no out.dts-new"


async def test_a_fragment_never_takes_the_place_of_the_output(server: FakeServer) -> None:
    assert await run(server, "a\nb\nc\n") == 0
    changed = files()["out"].replace(b"A", b"X")
    write("out", changed)
    write("out.dts-new", b"")
    with pytest.raises(ClientError, match="is not what was written"):
        await run(server, "a\nb\nc\n", "--resume")
    assert files()["out"] == changed
