"""Tails log files and sends what is at or above a level, across rotation.

A line's level is the first name of a level in it. Lines without one belong to the line before, as those of a
traceback do.
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
from dts.wire.dts_pb2 import LogRecord
from dts.worker.outward import LogShipper

INTERVAL = 1.0
"""Seconds between looks at the files."""
MAX_READ = 256 * 1024
"""Bytes of a file that are read at a look; of a flood, the rest is passed over."""
MAX_LINES = 200
"""Lines that are sent of one file after a look."""

_LEVEL = re.compile(r"\b(DEBUG|INFO|NOTICE|WARN(?:ING)?|ERR(?:OR)?|CRIT(?:ICAL)?|FATAL)\b")
_NUMBERS = {"D": 10, "I": 20, "N": 20, "W": 30, "E": 40, "C": 50, "F": 50}


class Tail:
    """One file that others write to, and maybe rename or truncate."""

    def __init__(self, path: str) -> None:
        self.path = Path(path)
        self._fd = -1
        self._inode = 0
        self._rest = b""
        self._open(at_end=True)

    def lines(self) -> list[str]:
        """The whole lines that have come since the last call."""
        data = self._read()
        try:
            status = os.stat(self.path)
        except OSError:
            status = None  # it will be there again after its rotation
        if status is not None and status.st_ino != self._inode:
            data += self._read()  # what was written to the old file before its writer went on to the new one
            self._open(at_end=False)
            data += self._read()
        *whole, self._rest = (self._rest + data).split(b"\n")
        return [line.decode(errors="replace") for line in whole]

    def close(self) -> None:
        """Let go of the file."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _open(self, *, at_end: bool) -> None:
        self.close()
        try:
            self._fd = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError:
            self._inode = 0
            return
        self._inode = os.fstat(self._fd).st_ino
        if at_end:
            os.lseek(self._fd, 0, os.SEEK_END)

    def _read(self) -> bytes:
        if self._fd < 0:
            return b""
        size, at = os.fstat(self._fd).st_size, os.lseek(self._fd, 0, os.SEEK_CUR)
        if size < at:  # it was truncated
            at = os.lseek(self._fd, 0, os.SEEK_SET)
        if size - at > MAX_READ:
            os.lseek(self._fd, size - MAX_READ, os.SEEK_SET)
            self._rest = b""
        return os.read(self._fd, MAX_READ)


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
        level = logging.NOTSET
        for line in tail.lines()[-MAX_LINES:]:
            if found := _LEVEL.search(line):
                level = _NUMBERS[found[1][0]]
            if level >= self._level and line.strip():
                record = LogRecord(
                    host=self._host, source=str(tail.path), time=time.time(), level=level, message=line[:8192]
                )
                self._shipper.put(record.SerializeToString())
