"""What a person sees on terminals of any width, and when something takes long."""

from __future__ import annotations

import asyncio
import re
import sys
from collections.abc import AsyncIterator

import pytest

from dts.management.api.resources import Record
from dts.management.shell import output
from dts.management.shell.output import Column, Output, patience

COLUMNS = (Column("id"), Column("roles"), Column("doc_id", "of"))
ROW: Record = {"id": "a" * 26, "roles": ["user", "developer"], "doc_id": "x"}


def sit_at_a_terminal(monkeypatch: pytest.MonkeyPatch, width: str = "80") -> None:
    for stream in (sys.stdout, sys.stderr):
        monkeypatch.setattr(stream, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("COLUMNS", width)


async def pages() -> AsyncIterator[list[Record]]:
    yield [ROW, ROW]


async def test_a_narrow_terminal_gets_a_field_a_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    sit_at_a_terminal(monkeypatch, "20")
    row = [f"id: {'a' * 26}", "roles: user, developer", "of: x"]
    await Output().rows(pages(), COLUMNS, limit=None, what="users")
    assert capsys.readouterr().out.splitlines() == [*row, "", *row]
    Output().table([ROW], COLUMNS)
    assert capsys.readouterr().out.splitlines() == row
    Output().record(ROW)
    assert capsys.readouterr().out.splitlines() == [row[0], row[1], "doc_id: x"]


async def test_ids_are_never_cut_and_what_has_no_room_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    sit_at_a_terminal(monkeypatch)
    columns = (
        Column("id"),
        Column("doc_id", "of", id=True),
        Column("what"),
        Column("count", right=True),
        Column("who"),
    )
    row = {"id": "a" * 26, "doc_id": "b" * 26, "what": "word " * 20, "count": 10**12, "who": "c" * 40}
    Output().table([row], columns)
    shown = capsys.readouterr()
    lines = re.sub(r"\x1b\[\d*m", "", shown.out).splitlines()
    assert lines[0].split() == ["id", "of", "what"]
    assert lines[2].split()[:2] == ["a" * 26, "b" * 26]
    assert all(len(line) <= 80 for line in lines)
    assert "no room for count, who: a wider terminal shows them, so does --json" in shown.err


@pytest.mark.parametrize("width", ["0", "80"])
async def test_a_terminal_that_does_not_know_its_width_is_a_usual_one(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], width: str
) -> None:
    sit_at_a_terminal(monkeypatch, width)
    await Output().rows(pages(), COLUMNS, limit=None, what="users")
    plain = re.sub(r"\x1b\[\d*m", "", capsys.readouterr().out)
    heading, _, first, _ = plain.splitlines()
    assert heading.split() == ["id", "roles", "of"]
    assert first.split() == ["a" * 26, "user,", "developer", "x"]
    Output().record(ROW)
    assert "a" * 26 in capsys.readouterr().out


async def test_what_takes_long_is_told_at_a_terminal_only(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    sit_at_a_terminal(monkeypatch)
    monkeypatch.setattr(output, "_SILENCE", 0.0)
    with patience("it may take minutes"):
        await asyncio.sleep(0.01)
    assert capsys.readouterr().err == "it may take minutes\n"
    with patience("it may take minutes"):
        pass
    monkeypatch.setattr(sys.stderr, "isatty", lambda: False)
    with patience("it may take minutes"):
        await asyncio.sleep(0.01)
    assert capsys.readouterr().err == ""
