"""What a child and the programs of its functions print: passed on to the worker's own stderr, within reason.

The last of it is kept, for the record of a job that killed its process. A flood costs the child that makes it, which
has to wait, and not the worker, nor the disk that its log is on.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterable
from contextlib import suppress

from dts.worker.link.masking import Masker

MAX_TAIL = 4 * 1024
"""Bytes that are kept."""
READ_RATE = 8 * 1024 * 1024
"""Bytes that are read of one child's output in a second."""
PASS_RATE = 256 * 1024
"""Bytes of them that are passed on in a second."""

_PIECE = 64 * 1024


class Output:
    """The reading end of a pipe that is a child's stdout and stderr."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._loop = asyncio.get_running_loop()
        self._tail = b""
        self._masker = Masker()
        self._second, self._read_now, self._passed, self._left_out = 0, 0, 0, 0
        self._paused: asyncio.TimerHandle | None = None
        os.set_blocking(fd, False)
        self._loop.add_reader(fd, self._on_readable)

    def tail(self) -> str:
        """The last lines, after what is still in the pipe has been read."""
        for _ in range(16):
            if not self._read():
                break
        return self._tail.decode(errors="replace")

    def mask(self, secrets: Iterable[str]) -> None:
        """Take these out of what is read from here on, too."""
        self._keep(self._masker.end())
        self._masker = self._masker.with_more(secrets)

    def forget(self) -> None:
        """Keep nothing of what was printed so far."""
        if self._paused is None:
            self._read()
        self._tail = b""

    def close(self) -> None:
        """Stop listening."""
        self.tail()
        self._keep(self._masker.end())
        self._loop.remove_reader(self._fd)
        if self._paused is not None:
            self._paused.cancel()
        os.close(self._fd)

    def _on_readable(self) -> None:
        if not self._read() or self._read_now < READ_RATE:
            return
        self._loop.remove_reader(self._fd)
        self._paused = self._loop.call_later(1.0, self._resume)

    def _resume(self) -> None:
        self._paused = None
        self._loop.add_reader(self._fd, self._on_readable)

    def _read(self) -> bool:
        """Read a piece; False if there is none."""
        try:
            data = os.read(self._fd, _PIECE)
        except BlockingIOError:
            return False
        except OSError:
            data = b""
        if not data:
            self._loop.remove_reader(self._fd)
            return False
        second = int(self._loop.time())
        if second != self._second:
            self._second, self._read_now, self._passed = second, 0, 0
        self._read_now += len(data)
        self._keep(self._masker.stream(data))
        return True

    def _keep(self, data: bytes) -> None:
        """Keep the last of some output, and pass it on."""
        self._tail = (self._tail + data)[-MAX_TAIL:]
        self._pass_on(data)

    def _pass_on(self, data: bytes) -> None:
        room = PASS_RATE - self._passed
        if room <= 0:
            self._left_out += len(data)
            return
        if self._left_out:
            data = b"\n(%d bytes of output left out)\n" % self._left_out + data
            self._left_out = 0
        self._passed += len(data)
        self._left_out += max(0, len(data) - room)
        with suppress(OSError):
            os.write(2, data[:room])
