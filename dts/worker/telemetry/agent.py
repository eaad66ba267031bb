"""Sends the lines of log files at or above a level. Of a flood it sends the last lines, and how many it left out.

A line's level is the first name of a level in it. Lines without one belong to the line before, as those of a
traceback do, also when that line was read earlier.
"""

from __future__ import annotations

import asyncio
import logging
import re
import socket
import time
from collections import deque
from collections.abc import Iterator
from weakref import WeakKeyDictionary

from dts.runtime.service import Service
from dts.wire import sanitize
from dts.wire.dts_pb2 import LogRecord
from dts.worker.telemetry.shipping import LogShipper
from dts.worker.telemetry.tail import Tail

logger = logging.getLogger(__name__)

INTERVAL = 1.0
"""Seconds between looks at the files."""
MAX_LINES = 2000
"""Lines that are sent of one file at a time: the last ones."""

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


class Agent(Service):
    """Follows the files of the settings."""

    def __init__(self, files: tuple[str, ...], level: int, shipper: LogShipper) -> None:
        super().__init__()
        self._files, self._level, self._shipper = files, level, shipper
        self._host = socket.gethostname()
        self._tails: dict[str, Tail] = {}
        self._told: WeakKeyDictionary[Tail, str] = WeakKeyDictionary()

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
                for _ in self._send_new(tail):
                    await asyncio.sleep(0)  # the worker has other things to do as well
            await asyncio.sleep(INTERVAL)

    def send_new(self, tail: Tail) -> None:
        """Send what is new in one file."""
        for _ in self._send_new(tail):
            pass

    def _send_new(self, tail: Tail) -> Iterator[None]:
        """The same, piece by piece."""
        found: deque[tuple[int, str]] = deque(maxlen=MAX_LINES)
        count = 0
        for piece in tail.pieces():
            for line in piece:
                level = level_of(line.text)
                if level is not None:
                    line.file.level = level
                if line.file.level >= self._level and line.text.strip():
                    found.append((line.file.level, line.text[:8192]))
                    count += 1
            yield
        for level, text in found:
            self._put(tail, level, text)
        skipped, tail.skipped = tail.skipped, 0
        if count > len(found) or skipped:
            unread = f", and {skipped} bytes were not read" if skipped else ""
            self._put(tail, logging.WARNING, f"{count - len(found)} lines of {tail.path} were left out{unread}")
        self._tell_problem(tail)

    def _put(self, tail: Tail, level: int, text: str) -> None:
        source = sanitize.name(str(tail.path))
        record = LogRecord(host=self._host, source=source, time=time.time(), level=level, message=text)
        self._shipper.put(record.SerializeToString())

    def _tell_problem(self, tail: Tail) -> None:
        """Warn once of what cannot be followed."""
        if tail.problem and tail.problem != self._told.get(tail):
            logger.warning("%s is not followed: %s", tail.path, tail.problem)
        elif not tail.problem and tail in self._told:
            logger.info("%s is followed", tail.path)
        if tail.problem:
            self._told[tail] = tail.problem
        else:
            self._told.pop(tail, None)
