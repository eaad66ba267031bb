"""The values that a generator function has yielded so far, encoded and bounded."""

from __future__ import annotations

import sys
from collections import deque
from typing import Any

import msgspec

from dts.worker.attempt.result_json import encode_value

MAX_LIVE = 2048
"""Bytes of the last yielded values that are sent while a job runs, in an event that has to stay small."""


class Yielded:
    """The encoded values that one job has yielded: the last ones, as far as `limit` bytes go."""

    def __init__(self, limit: int) -> None:
        self.values: deque[bytes] = deque()
        self.is_new = False
        """Whether there is one that no Progress has carried yet."""
        self._limit = limit
        self._size = 0

    def add(self, value: Any) -> None:
        """Take one more; in place of one that is over the limit by itself, a note of its size. Raises ResultNotJSON."""
        text = encode_value(value, sys.maxsize, "yielded value")
        if len(text) > self._limit:
            text = msgspec.json.encode({"too_large": len(text), "limit": self._limit})
        self.values.append(text)
        self.is_new = True
        self._size += len(text) + 1
        while self._size > self._limit:
            self._size -= len(self.values.popleft()) + 1

    def tail(self) -> bytes:
        """Any thread: the JSON array of the last values that fit in `MAX_LIVE`; empty if there are none."""
        kept: list[bytes] = []
        size = 2
        for text in reversed(list(self.values)):
            size += len(text) + 1
            if size > MAX_LIVE:
                break
            kept.append(text)
        return b"[" + b",".join(reversed(kept)) + b"]" if kept else b""


def encoded(of: dict[int, Yielded], position: int) -> bytes:
    """The JSON array of what a job has yielded, which is then forgotten; empty for nothing."""
    yielded = of.pop(position, None)
    return b"[" + b",".join(yielded.values) + b"]" if yielded is not None and yielded.values else b""
