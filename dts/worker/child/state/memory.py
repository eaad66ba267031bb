"""How much memory a child may take for the message that it works at."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from contextlib import contextmanager

_RESERVE = 16 * 1024 * 1024  # bytes

_SPARE = 4 * 1024 * 1024
"""Bytes that are kept for the moment when a job has taken all others; never written to, so no RAM is behind them."""


class MemoryLimit:
    """Sets how much memory the process may take, beyond what it has when it starts."""

    def __init__(self) -> None:
        self._base = _data_size()
        self._limit = 0
        self.spare: bytearray | None = None
        """Let go of it before anything else when a job has failed: where there is no memory left, it is some."""

    def set(self, limit: int) -> int:
        """Allow `limit` bytes more, or any number for 0; returns what the whole process may take then, 0 for any."""
        total = self._base + _SPARE + limit if limit else 0
        self._limit = limit
        soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
        if soft != (total or hard):
            resource.setrlimit(resource.RLIMIT_DATA, (total or hard, hard))
        if limit and self.spare is None:
            self.spare = bytearray(_SPARE)
        return total

    @contextmanager
    def relaxed(self) -> Iterator[None]:
        """Allow some more for a moment: to report that there is none left takes memory, too."""
        if not self._limit:
            yield
            return
        soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
        resource.setrlimit(resource.RLIMIT_DATA, (self._base + _SPARE + self._limit + _RESERVE, hard))
        try:
            yield
        finally:
            if self.spare is None:
                self.spare = bytearray(_SPARE)
            resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))


def _data_size() -> int:
    """Bytes of the process that count for RLIMIT_DATA."""
    with open("/proc/self/statm", "rb") as file:
        return int(file.read().split()[5]) * resource.getpagesize()
