"""What the agent makes of log files: lines, their levels, and files that change under it."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any, cast

import pytest

from dts.wire.dts_pb2 import LogRecord
from dts.worker.telemetry.agent import MAX_LINES, Agent, level_of
from dts.worker.telemetry.shipping import LogShipper
from dts.worker.telemetry.tail import MAX_LINE, MAX_READ, File, Tail, problem_of


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
    tail = Tail(str(path), quiet=0)
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
        assert len(cast(File, tail._file)._rest) <= MAX_LINE
    assert [len(line) for line in found] == [100_000], "its beginning, once"
    append(path, "the end\nERROR next\n")
    assert tail.lines() == ["ERROR next"]


def test_of_a_flood_the_last_lines_are_read(path: Path) -> None:
    tail = Tail(str(path))
    append(path, "".join(f"ERROR {n:08}\n" for n in range(100_000)))
    found = tail.lines()
    assert found[-1] == "ERROR 00099999"
    assert all(len(line) == 14 for line in found)
    assert sum(len(line) + 1 for line in found) <= MAX_READ
    assert tail.skipped + sum(len(line) + 1 for line in found) == pytest.approx(1_500_000, abs=15)


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
    agent.send_new(tail)
    append(path, '  File "x.py"\nValueError: no\nINFO well\n  and so on\n')
    agent.send_new(tail)
    assert [record.message for record in kept.records] == [
        "ERROR it broke",
        "Traceback (most recent call last):",
        '  File "x.py"',
        "ValueError: no",
    ]
    assert {record.level for record in kept.records} == {40}


def messages(kept: Kept) -> list[str]:
    """What was put."""
    return [record.message for record in kept.records]


def made_agent(kept: Kept) -> Agent:
    """One that puts its records there."""
    return Agent((), 30, cast(LogShipper, cast(Any, kept)))


def test_what_is_left_out_of_a_flood_is_counted_and_told(path: Path) -> None:
    kept = Kept()
    agent, tail = made_agent(kept), Tail(str(path))
    append(path, "".join(f"ERROR {n}\n" for n in range(MAX_LINES)))
    agent.send_new(tail)
    assert messages(kept) == [f"ERROR {n}" for n in range(MAX_LINES)]
    kept.records.clear()
    append(path, "".join(f"ERROR {n}\nINFO calm\n" for n in range(MAX_LINES + 7)))
    agent.send_new(tail)
    *lines, told = messages(kept)
    assert (lines[0], len(lines)) == ("ERROR 7", MAX_LINES)
    assert told == f"7 lines of {path} were left out"
    kept.records.clear()
    append(path, "ERROR x\n" * 200_000)
    agent.send_new(tail)
    assert messages(kept)[-1].endswith(f"{1_600_000 - MAX_READ} bytes were not read")
    kept.records.clear()
    agent.send_new(tail)
    assert messages(kept) == []


def test_the_end_of_a_line_as_windows_writes_it_is_no_part_of_it(path: Path) -> None:
    tail = Tail(str(path))
    with path.open("ab") as file:
        file.write(b"ERROR one\r\nERROR two\r\r\n")
    assert tail.lines() == ["ERROR one", "ERROR two\r"]


def test_a_renamed_file_is_read_on_until_it_is_quiet(path: Path) -> None:
    tail = Tail(str(path), quiet=0.2)
    old = path.with_suffix(".1")
    append(path, "one\n")
    path.rename(old)
    append(path, "two\n")
    assert tail.lines() == ["one", "two"]
    append(old, "late\nlast ")
    append(path, "three\n")
    assert tail.lines() == ["late", "three"]
    append(old, "words")
    assert tail.lines() == []
    time.sleep(0.25)
    assert tail.lines() == ["last words"]
    append(old, "nobody reads this\n")
    assert tail.lines() == []
    tail.close()


def test_a_line_that_goes_on_in_a_renamed_file_has_the_level_of_that_file(path: Path) -> None:
    kept = Kept()
    agent, tail = made_agent(kept), Tail(str(path))
    append(path, "ERROR it broke\n")
    agent.send_new(tail)
    path.rename(path.with_suffix(".1"))
    append(path, "INFO calm\n")
    agent.send_new(tail)
    append(path.with_suffix(".1"), "ValueError: no\n")
    append(path, "and calm\n")
    agent.send_new(tail)
    assert messages(kept) == ["ERROR it broke", "ValueError: no"]


@pytest.mark.parametrize(("kind", "said"), [("folder", "directory"), ("pipe", "no regular"), ("proc", "Invalid arg")])
def test_what_is_no_regular_file_is_warned_about_once_and_followed_when_it_is_replaced(
    path: Path, caplog: pytest.LogCaptureFixture, kind: str, said: str
) -> None:
    path.unlink()
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to("/proc/self/status")
    kept = Kept()
    agent, tail = made_agent(kept), Tail(str(path))
    assert said in problem_of(str(path))
    for _ in range(3):
        agent.send_new(tail)
    assert caplog.text.count("is not followed") == 1
    assert said in caplog.text
    path.rename(path.with_name("away"))
    append(path, "ERROR first\n")
    agent.send_new(tail)
    assert messages(kept) == ["ERROR first"]
    assert problem_of(str(path)) == ""


def test_a_file_that_becomes_a_folder_is_let_go(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    kept = Kept()
    agent, tail = made_agent(kept), Tail(str(path))
    append(path, "ERROR one\n")
    path.rename(path.with_suffix(".1"))
    path.mkdir()
    agent.send_new(tail)
    assert messages(kept) == ["ERROR one"]
    assert "it is a directory" in caplog.text
    path.rmdir()
    append(path, "ERROR two\n")
    agent.send_new(tail)
    assert messages(kept) == ["ERROR one", "ERROR two"]
