"""Tails log files and sends what is at or above a level, across rotation.

A line's level is the first name of a level in it. Lines without one belong to the line before, as those of a
traceback do, also when it was read at an earlier look.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
import socket
import time
from pathlib import Path

from dts.runtime.service import Service
from dts.wire import telling
from dts.wire.dts_pb2 import LogRecord
from dts.worker.outward import LogShipper

INTERVAL = 1.0
"""Seconds between looks at the files."""
MAX_READ = 256 * 1024
"""Bytes of a file that are read at a look; of a flood, the rest is passed over."""
MAX_LINES = 200
"""Lines that are sent of one file after a look."""
MAX_LINE = 64 * 1024
"""Bytes that are kept of a line that has not ended yet."""
_MARK = 64  # bytes by which it is known whether a file still is the one that was read

_NUMBERS = {
    "DEBUG": 10,
    "INFO": 20,
    "NOTICE": 20,
    "WARNING": 30,
    "WARN": 30,
    "ERROR": 40,
    "ERR": 40,
    "CRITICAL": 50,
    "CRIT": 50,
    "FATAL": 50,
    "ALERT": 50,
    "EMERG": 50,
    "PANIC": 50,
}
_ANY = "|".join(_NUMBERS)
# In capitals a name stands for itself. Otherwise it is a word like others, unless it stands where programs put levels:
# `[error]`, `[core:error]`, `error:`, `level=error`, `"level": "error"`.
_LEVEL = re.compile(
    rf"\b({_ANY})\b|(?i:[\[<(:]({_ANY})[\]>)]|(?:^|[\s\]])({_ANY}):|\b(?:level|lvl|severity)\W{{1,4}}({_ANY})\b)"
)


def level_of(line: str) -> int | None:
    """The level that a line names first; None if it names none."""
    found = _LEVEL.search(line)
    return _NUMBERS[next(filter(None, found.groups())).upper()] if found is not None else None


class Tail:
    """One file that others write to, and maybe rename or truncate. `level` is that of the last line that names one."""

    def __init__(self, path: str) -> None:
        self.path = Path(path)
        self.level = logging.NOTSET
        self._fd = -1
        self._inode = 0
        self._rest = b""
        self._overlong = False
        self._mark = b""  # the last bytes before the place up to which it was read
        self._open(at_end=True)

    def lines(self) -> list[str]:
        """The whole lines that have come since the last call."""
        found = self._take(self._read())
        try:
            status = os.stat(self.path)
        except OSError:
            status = None  # it will be there again after its rotation
        if status is not None and status.st_ino != self._inode:
            found += self._take(self._read())  # what was written to it before its writer went on to the new one
            found += self._take_rest()
            self._open(at_end=False)
            found += self._take(self._read())
        return [line.decode(errors="replace") for line in found]

    def close(self) -> None:
        """Let go of the file."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _open(self, *, at_end: bool) -> None:
        self.close()
        self._mark, self._inode = b"", 0
        try:
            self._fd = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError:
            return
        self._inode = os.fstat(self._fd).st_ino
        if at_end:
            end = os.lseek(self._fd, 0, os.SEEK_END)
            self._mark = self._before(end)

    def _take(self, data: bytes) -> list[bytes]:
        """The lines that end in these bytes. Of one that is too long, the beginning."""
        *whole, rest = (self._rest + data).split(b"\n")
        if self._overlong and whole:
            del whole[0]  # the end of what was taken already
            self._overlong = False
        self._rest = b"" if self._overlong else rest
        if len(self._rest) > MAX_LINE:
            whole += self._take_rest()
            self._overlong = True
        return whole

    def _take_rest(self) -> list[bytes]:
        """A last line that nobody will end."""
        rest, self._rest, self._overlong = self._rest, b"", False
        return [rest] if rest else []

    def _before(self, place: int) -> bytes:
        """Some bytes before a place in the file."""
        size = min(place, _MARK)
        return os.pread(self._fd, size, place - size) if size else b""

    def _read(self) -> bytes:
        if self._fd < 0:
            return b""
        size, at = os.fstat(self._fd).st_size, os.lseek(self._fd, 0, os.SEEK_CUR)
        cut = b""
        if self._before(at) != self._mark:  # it was truncated, and maybe written anew
            at = os.lseek(self._fd, 0, os.SEEK_SET)
            cut = b"\n" if self._rest or self._overlong else b""
        if size - at > MAX_READ:
            os.lseek(self._fd, size - MAX_READ, os.SEEK_SET)
            self._rest, self._overlong, self.level, cut = b"", True, logging.NOTSET, b""
        data = os.read(self._fd, MAX_READ)
        self._mark = self._before(os.lseek(self._fd, 0, os.SEEK_CUR))
        return cut + data


class Agent(Service):
    """Follows the files of the settings."""

    def __init__(self, files: tuple[str, ...], level: int, shipper: LogShipper) -> None:
        super().__init__()
        self._files, self._level, self._shipper = files, level, shipper
        self._host = socket.gethostname()
        self._tails: dict[str, Tail] = {}

    async def _start(self) -> None:
        self._stack.callback(self.follow, (), self._level)
        self.follow(self._files, self._level)
        self._spawn(self._run(), "agent")

    def follow(self, files: tuple[str, ...], level: int) -> None:
        """Follow these files from now on, at this level; of those that were followed before, nothing is left out."""
        self._level = level
        for path in self._tails.keys() - set(files):
            self._tails.pop(path).close()
        for path in files:
            if path not in self._tails:
                self._tails[path] = Tail(path)

    async def _run(self) -> None:
        while True:
            for tail in list(self._tails.values()):
                self.look(tail)
            await asyncio.sleep(INTERVAL)

    def look(self, tail: Tail) -> None:
        """Send what is new in one file."""
        found: list[tuple[int, str]] = []
        for line in tail.lines():
            level = level_of(line)
            if level is not None:
                tail.level = level
            if tail.level >= self._level and line.strip():
                found.append((tail.level, line[:8192]))
        for level, text in found[-MAX_LINES:]:
            source = telling.name(str(tail.path))
            record = LogRecord(host=self._host, source=source, time=time.time(), level=level, message=text)
            self._shipper.put(record.SerializeToString())
