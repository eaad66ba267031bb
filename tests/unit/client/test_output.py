"""Files that rows are written to."""

from __future__ import annotations

import datetime
import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from dts.client import DailyRotatingOutputFile, OutputFile
from dts.errors import ClientError


def test_an_existing_file_is_overwritten_when_rows_are_about_to_come(tmp_path: Path) -> None:
    path = tmp_path / "out"
    path.write_text("old\n")
    out = OutputFile(path)
    out.open()
    assert path.read_text() == "old\n"
    out.begin()
    out.write(b"new\n")
    out.close()
    assert path.read_text() == "new\n"


def test_what_cannot_be_written_says_so_when_opened(tmp_path: Path) -> None:
    with pytest.raises(ClientError, match="Is a directory"):
        OutputFile(tmp_path).open()
    with pytest.raises(ClientError, match="No such file or directory"):
        OutputFile(tmp_path / "missing" / "out").open()


def test_a_write_that_fails_half_way_leaves_no_half_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = OutputFile(tmp_path / "out")
    out.begin()
    out.write(b"first\n")
    write = os.write

    def full_disk(descriptor: int, data: memoryview) -> int:
        monkeypatch.setattr(os, "write", fail)
        return write(descriptor, data[:3])

    def fail(descriptor: int, data: memoryview) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "write", full_disk)
    with pytest.raises(ClientError, match="No space left on device"):
        out.write(b"second\n")
    assert (tmp_path / "out").read_text() == "first\n"


WRITE_TO_FULL_STDOUT = """
import os, resource, signal
from dts.client import OutputFile
from dts.errors import ClientError
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
out = OutputFile("-")
out.begin()
out.write(b"first\\n")
resource.setrlimit(resource.RLIMIT_FSIZE, (16, resource.RLIM_INFINITY))
try:
    out.write(b"second\\n")
except ClientError as error:
    raise SystemExit(error.message)
"""


@pytest.mark.parametrize("mode", ["wb", "ab"])
def test_a_redirected_standard_output_keeps_what_was_there_and_has_no_half_row(mode: str, tmp_path: Path) -> None:
    path = tmp_path / "out"
    path.write_text("header\n")
    with path.open(mode) as stdout:
        if mode == "wb":
            stdout.write(b"header\n")
            stdout.flush()
        done = subprocess.run(
            [sys.executable, "-c", WRITE_TO_FULL_STDOUT], stdout=stdout, stderr=subprocess.PIPE, check=False
        )
    assert done.stderr == b"cannot write standard output: File too large\n"
    assert path.read_text() == "header\nfirst\n"


def test_a_reader_that_has_gone_is_a_plain_error() -> None:
    read, write = os.pipe()
    out = OutputFile(f"/dev/fd/{write}")
    out.begin()
    os.close(read)
    with pytest.raises(ClientError, match="was closed by its reader"):
        out.write(b"row\n")
    out.close()
    os.close(write)


def cut(path: Path, size: int) -> None:
    os.truncate(path, size)


@pytest.mark.parametrize("when", ["write", "sync"])
def test_a_file_that_another_program_has_cut_gets_no_hole(when: str, tmp_path: Path) -> None:
    path = tmp_path / "out"
    out = OutputFile(path)
    out.begin()
    out.write(b"first\n")
    cut(path, 2)
    with pytest.raises(ClientError, match=r"another program has cut \S*out to 2 bytes: rows are missing"):
        out.write(b"second\n") if when == "write" else out.sync()
    assert path.read_bytes() == b"fi"


def test_a_file_that_is_appended_to_goes_on_at_its_end_when_it_was_cut(tmp_path: Path) -> None:
    path = tmp_path / "out"
    out = OutputFile(path, append=True)
    out.begin()
    out.write(b"first\n")
    cut(path, 0)
    out.write(b"second\n")
    assert path.read_bytes() == b"second\n"


@pytest.mark.parametrize("how", ["deleted", "moved", "replaced"])
def test_a_file_that_has_lost_its_name_is_noticed_before_its_rows_count(how: str, tmp_path: Path) -> None:
    path = tmp_path / "out"
    out = OutputFile(path)
    out.begin()
    out.write(b"first\n")
    if how == "replaced":
        (tmp_path / "other").write_text("other\n")
        (tmp_path / "other").replace(path)
    else:
        path.rename(tmp_path / "elsewhere")
        if how == "deleted":
            (tmp_path / "elsewhere").unlink()
    with pytest.raises(ClientError, match="another program has moved or deleted"):
        out.sync()


@pytest.mark.parametrize("flags", [0, os.O_APPEND])
def test_an_open_descriptor_by_its_path_is_that_descriptor(flags: int, tmp_path: Path) -> None:
    path = tmp_path / "out"
    path.write_text("before\n")
    descriptor = os.open(path, os.O_WRONLY | flags)
    if not flags:
        os.lseek(descriptor, 0, os.SEEK_END)
    (tmp_path / "link").symlink_to(f"/dev/fd/{descriptor}")
    for name in (f"/dev/fd/{descriptor}", f"/proc/self/fd/{descriptor}", tmp_path / "link"):
        out = OutputFile(name)
        out.begin()
        out.write(b"row\n")
        os.write(descriptor, b"said\n")
        assert not out.regular, "it is emptied by whoever opened it, and cannot be resumed"
        out.close()
    os.close(descriptor)
    assert path.read_text() == "before\n" + "row\nsaid\n" * 3


def test_a_descriptor_that_cannot_be_written_is_refused_when_opened(tmp_path: Path) -> None:
    (tmp_path / "in").touch()
    descriptor = os.open(tmp_path / "in", os.O_RDONLY)
    with pytest.raises(ClientError, match="it is open for reading only"):
        OutputFile(f"/dev/fd/{descriptor}").open()
    os.close(descriptor)
    with pytest.raises(ClientError, match="Bad file descriptor"):
        OutputFile(f"/dev/fd/{descriptor}").open()


def test_a_rotating_file_begins_a_new_one_each_day(tmp_path: Path) -> None:
    day = datetime.date(2024, 2, 29)
    out = DailyRotatingOutputFile(tmp_path / "out.json", today=lambda: day)
    out.open()
    out.begin()
    out.write(b"1\n")
    day += datetime.timedelta(days=1)
    out.write(b"2\n")
    out.close()
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {
        "out-2024-02-29.json": "1\n",
        "out-2024-03-01.json": "2\n",
    }


def test_a_rotating_file_keeps_what_the_day_has_brought(tmp_path: Path) -> None:
    for row in (b"1\n", b"2\n"):
        out = DailyRotatingOutputFile(tmp_path / "out", today=lambda: datetime.date(2024, 2, 29))
        out.begin()
        out.write(row)
        out.close()
    assert (tmp_path / "out-2024-02-29").read_text() == "1\n2\n"


Kind = type[OutputFile] | type[DailyRotatingOutputFile]


@pytest.mark.parametrize("kind", [OutputFile, DailyRotatingOutputFile])
def test_two_do_not_write_one_file_at_the_same_time(kind: Kind, tmp_path: Path) -> None:
    first, second = kind(tmp_path / "out"), kind(tmp_path / "out")
    first.begin()
    first.write(b"first\n")
    second.open()
    for refused in (second.lock, second.begin):
        with pytest.raises(ClientError, match=r"/out.* is being written by another dts-client"):
            refused()
    first.close()
    second.begin()
    second.write(b"2nd\n")
    second.close()
    [path] = tmp_path.iterdir()
    assert path.read_text() == ("2nd\n" if kind is OutputFile else "first\n2nd\n")


def test_a_run_goes_on_in_the_old_file_while_somebody_else_writes_that_of_the_new_day(tmp_path: Path) -> None:
    day = datetime.date(2024, 2, 29)
    out, other = (DailyRotatingOutputFile(tmp_path / "out", today=lambda: day) for _ in range(2))
    out.begin()
    out.write(b"1\n")
    day += datetime.timedelta(days=1)
    other.begin()
    out.write(b"2\n")
    other.write(b"other\n")
    other.close()
    out.write(b"3\n")
    out.close()
    assert (tmp_path / "out-2024-02-29").read_text() == "1\n2\n"
    assert (tmp_path / "out-2024-03-01").read_text() == "other\n3\n"


def test_a_rotating_file_is_locked_on_the_next_day_too(tmp_path: Path) -> None:
    day = datetime.date(2024, 2, 29)
    out = DailyRotatingOutputFile(tmp_path / "out", today=lambda: day)
    out.begin()
    day += datetime.timedelta(days=1)
    out.write(b"row\n")
    with pytest.raises(ClientError, match="out-2024-03-01: it is being written"):
        DailyRotatingOutputFile(tmp_path / "out", today=lambda: day).begin()
    DailyRotatingOutputFile(tmp_path / "out", today=lambda: datetime.date(2024, 2, 29)).begin()
    out.close()


def test_a_file_that_nobody_has_any_more_is_not_locked(tmp_path: Path) -> None:
    OutputFile(tmp_path / "out").begin()
    OutputFile(tmp_path / "out").begin()


def test_a_file_system_without_locks_will_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_locks(descriptor: int, operation: int) -> None:
        raise OSError(errno.ENOTSUP, os.strerror(errno.ENOTSUP))

    monkeypatch.setattr("fcntl.flock", no_locks)
    out = OutputFile(tmp_path / "out")
    out.begin()
    out.write(b"row\n")
    out.close()
    assert (tmp_path / "out").read_text() == "row\n"
