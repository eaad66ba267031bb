"""What the agent makes of log files: lines, their levels, and files that change under it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest

from dts.wire.dts_pb2 import LogRecord
from dts.worker.agent import MAX_LINE, MAX_READ, Agent, Tail, level_of
from dts.worker.outward import LogShipper


@pytest.mark.parametrize(
    ("line", "level"),
    [
        ("2026-01-01 ERROR it broke", 40),
        ("WARN: low", 30),
        ("[error] 123#0: upstream timed out", 40),
        ("[Sat Nov 21 2026] [core:error] [pid 1] AH00126", 40),
        ("error: cannot open", 40),
        ("Warning: deprecated", 30),
        ("time=12 level=warning msg=x", 30),
        ('{"level":"fatal","msg":"x"}', 50),
        ('{"severity": "Critical"}', 50),
        ("kernel <emerg> x", 50),
        ("the error rate is low", None),
        ("ValueError: no", None),
        ("TERRORS", None),
        ("INFO no error: fine", 20),
    ],
)
def test_the_first_name_of_a_level_counts(line: str, level: int | None) -> None:
    assert level_of(line) == level


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "log").write_text("before\n")
    return tmp_path / "log"


def append(path: Path, text: str) -> None:
    with path.open("a") as file:
        file.write(text)


def test_a_last_line_without_an_end_is_one_of_its_own(path: Path) -> None:
    tail = Tail(str(path))
    append(path, "ERROR last words")
    assert tail.lines() == []
    path.rename(path.with_suffix(".1"))
    path.write_text("INFO first\n")
    assert tail.lines() == ["ERROR last words", "INFO first"]
    append(path, "half")
    assert tail.lines() == []
    path.write_text("ERROR new\n")
    assert tail.lines() == ["half", "ERROR new"]


def test_a_file_that_was_truncated_and_has_grown_beyond_its_size_is_read_from_its_beginning(path: Path) -> None:
    tail = Tail(str(path))
    append(path, "one\n")
    assert tail.lines() == ["one"]
    path.write_text("".join(f"ERROR number {n}\n" for n in range(100)))
    assert tail.lines() == [f"ERROR number {n}" for n in range(100)]
    path.write_text("as long")
    assert tail.lines() == []


def test_a_line_that_never_ends_takes_a_bounded_memory(path: Path) -> None:
    tail = Tail(str(path))
    found = []
    for _ in range(20):
        append(path, "x" * 50_000)
        found += tail.lines()
        assert len(tail._rest) <= MAX_LINE
    assert [len(line) for line in found] == [100_000], "its beginning, once"
    append(path, "the end\nERROR next\n")
    assert tail.lines() == ["ERROR next"]


def test_of_a_flood_the_last_lines_are_read(path: Path) -> None:
    tail = Tail(str(path))
    append(path, "".join(f"ERROR {n:08}\n" for n in range(50_000)))
    found = tail.lines()
    assert found[-1] == "ERROR 00049999"
    assert all(len(line) == 14 for line in found)
    assert sum(len(line) + 1 for line in found) <= MAX_READ


class Kept:
    """Where records go."""

    def __init__(self) -> None:
        self.records: list[LogRecord] = []

    def put(self, body: bytes) -> None:
        """Keep one."""
        self.records.append(LogRecord.FromString(body))


def test_a_traceback_belongs_to_its_record_also_when_it_comes_later(path: Path) -> None:
    kept = Kept()
    agent, tail = Agent((), 30, cast(LogShipper, cast(Any, kept))), Tail(str(path))
    append(path, "ERROR it broke\nTraceback (most recent call last):\n")
    agent.look(tail)
    append(path, '  File "x.py"\nValueError: no\nINFO well\n  and so on\n')
    agent.look(tail)
    assert [record.message for record in kept.records] == [
        "ERROR it broke",
        "Traceback (most recent call last):",
        '  File "x.py"',
        "ValueError: no",
    ]
    assert {record.level for record in kept.records} == {40}
