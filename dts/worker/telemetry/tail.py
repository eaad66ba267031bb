"""Follows a log file that other programs write, rename or truncate."""

from __future__ import annotations

import logging
import os
import stat
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

MAX_READ = 1024 * 1024
"""Bytes of a file that are read at a time; of a flood, the last ones, and the rest is skipped."""
MAX_LINE = 64 * 1024
"""Bytes that are kept of a line that has not ended yet."""
QUIET = 5.0
"""Seconds for which a renamed file must have been quiet until it is closed: its writer may not have noticed yet."""
MAX_OLD = 4
"""Renamed files that are read on at a time."""
_PIECE = 64 * 1024  # bytes that are read without a break
_MARK = 64  # bytes by which it is known whether a file still is the one that was read


class File:
    """A regular file that is open. `level` is that of the last line that named one; the reader of the lines sets it."""

    def __init__(self, path: Path, level: int, *, at_end: bool) -> None:
        """Raises OSError when it cannot be opened, or is nothing that can be followed."""
        self.level = level
        self.heard = time.monotonic()
        """When something was read last."""
        status = os.stat(path)
        if not stat.S_ISREG(status.st_mode):  # a pipe must not even be opened: that would wake its writer
            raise OSError(0, "it is a directory" if stat.S_ISDIR(status.st_mode) else "it is no regular file")
        self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        self._rest = b""
        self._overlong = False
        self._mark = b""  # the last bytes before the place up to which it was read
        try:
            self.identity = _identity(os.fstat(self._fd))
            end = os.lseek(self._fd, 0, os.SEEK_END)  # what cannot do that, as files in /proc, is refused here
            if at_end:
                self._mark = self._before(end)
            else:
                os.lseek(self._fd, 0, os.SEEK_SET)
        except OSError:
            self.close()
            raise

    def close(self) -> None:
        """Let go of it. May be called twice."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def skip(self) -> int:
        """Pass over what is too much to be read; returns how many bytes that are. Raises OSError."""
        excess = os.fstat(self._fd).st_size - os.lseek(self._fd, 0, os.SEEK_CUR) - MAX_READ
        if excess <= 0 or self._is_cut():
            return 0
        self._mark = self._before(os.lseek(self._fd, excess, os.SEEK_CUR))
        excess += len(self._rest)
        self._rest, self._overlong, self.level = b"", True, logging.NOTSET
        return excess

    def read(self) -> list[bytes] | None:
        """The lines that end in the next piece; None when there is no more of it. Raises OSError."""
        cut = b""
        if self._is_cut():
            os.lseek(self._fd, 0, os.SEEK_SET)
            cut = b"\n" if self._rest or self._overlong else b""
        data = cut + os.read(self._fd, _PIECE)
        self._mark = self._before(os.lseek(self._fd, 0, os.SEEK_CUR))
        if not data:
            return None
        self.heard = time.monotonic()
        return self._take(data)

    def take_rest(self) -> list[bytes]:
        """A last line without an end, which will not get one."""
        rest, self._rest, self._overlong = self._rest, b"", False
        return [rest] if rest else []

    def _take(self, data: bytes) -> list[bytes]:
        """The lines that end in these bytes. Of one that is too long, the beginning."""
        *whole, rest = (self._rest + data).split(b"\n")
        if self._overlong and whole:
            del whole[0]  # the end of what was taken already
            self._overlong = False
        self._rest = b"" if self._overlong else rest
        if len(self._rest) > MAX_LINE:
            whole += self.take_rest()
            self._overlong = True
        return whole

    def _is_cut(self) -> bool:
        """Whether it was truncated, and maybe written anew."""
        return self._before(os.lseek(self._fd, 0, os.SEEK_CUR)) != self._mark

    def _before(self, place: int) -> bytes:
        """Some bytes before a place in it."""
        size = min(place, _MARK)
        return os.pread(self._fd, size, place - size) if size else b""


class Line(NamedTuple):
    """A line, without its end, and the file that it comes from."""

    file: File
    text: str


class Tail:
    """What comes to the file of a name. One that was renamed is read on until it was quiet for `quiet` seconds."""

    def __init__(self, path: str, *, quiet: float = QUIET) -> None:
        self.path = Path(path)
        self.problem = ""
        """Why the file cannot be followed; each read tries again. A file that does not exist is no problem."""
        self.skipped = 0
        """Bytes that were skipped; whatever reports them sets it to 0."""
        self._quiet = quiet
        self._file: File | None = None
        self._old: list[File] = []
        self._bad: tuple[int, int] | None = None  # the file that is the problem: what it has by now is not new
        self._open(logging.NOTSET, at_end=True)

    def lines(self) -> list[str]:
        """The whole lines that have come since the last call."""
        return [line.text for piece in self.pieces() for line in piece]

    def pieces(self) -> Iterator[list[Line]]:
        """The same, piece by piece."""
        for old in list(self._old):
            yield from self._drain(old)
            if time.monotonic() - old.heard >= self._quiet:
                yield self._release(old)
        if self._file is not None:
            yield from self._drain(self._file)
        identity = self._identity()
        if identity is None or (self._file is not None and self._file.identity == identity):
            return
        before, self._file = self._file, None
        if before is not None:
            yield from self._drain(before)  # what was written to it before its writer went on to the new one
            self._old.append(before)
            while len(self._old) > (MAX_OLD if self._quiet else 0):
                yield self._release(self._old[0])
        new = self._open(before.level if before is not None else logging.NOTSET, at_end=identity == self._bad)
        if new is not None:
            yield from self._drain(new)

    def close(self) -> None:
        """Let go of all files. May be called twice."""
        for file in (*self._old, *([self._file] if self._file is not None else [])):
            file.close()
        self._old.clear()
        self._file = None

    def _identity(self) -> tuple[int, int] | None:
        """Which file has the name now; None for none."""
        try:
            return _identity(os.stat(self.path))
        except FileNotFoundError:
            self.problem = ""  # it will be there again after its rotation
        except OSError as error:
            self.problem = error.strerror or str(error)
        return None

    def _open(self, level: int, *, at_end: bool) -> File | None:
        try:
            self._file = File(self.path, level, at_end=at_end)
        except FileNotFoundError:
            self.problem = ""
        except OSError as error:
            self._fail(error)
        else:
            self.problem, self._bad = "", None
        return self._file

    def _fail(self, error: OSError) -> None:
        self.problem = error.strerror or str(error)
        with suppress(OSError):
            status = os.stat(self.path)
            self._bad = _identity(status) if stat.S_ISREG(status.st_mode) else None

    def _drain(self, file: File) -> Iterator[list[Line]]:
        """What a file has. One that cannot be read is closed."""
        try:
            self.skipped += file.skip()
            left = MAX_READ // _PIECE + 1  # a file that grows as fast as it is read must not hold up the others
            while left and (found := file.read()) is not None:
                left -= 1
                yield _lines(file, found)
        except OSError as error:
            if file is self._file:
                self._fail(error)
                self._file = None
            elif file in self._old:
                self._old.remove(file)
            file.close()

    def _release(self, old: File) -> list[Line]:
        """Close a renamed file; returns its last line, if that has no end."""
        if old in self._old:
            self._old.remove(old)
        rest = _lines(old, old.take_rest())
        old.close()
        return rest


def problem_of(path: str) -> str:
    """Why a file cannot be followed; empty if it can, or is not there yet."""
    tail = Tail(path)
    tail.close()
    return tail.problem


def _lines(file: File, found: list[bytes]) -> list[Line]:
    return [Line(file, line.removesuffix(b"\r").decode(errors="replace")) for line in found]


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino
