"""What jobs tell before they end: values that generators yield, and how far they are."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

from dts.worker import context
from dts.worker.jsonvalue import encode_value

MAX_TOLD = 2048
"""Bytes of yielded values, the last ones, that are told while a job runs: they pass by as a small event."""


class Yielded:
    """The encoded values that one job has yielded: the last ones, as far as `limit` bytes go."""

    def __init__(self, limit: int) -> None:
        self.values: deque[bytes] = deque()
        self.is_new = False
        """Whether there is one that no Progress has carried yet."""
        self._limit = limit
        self._size = 0

    def add(self, value: Any) -> None:
        """Take one more. Raises ResultNotJSON or ResultTooLarge."""
        text = encode_value(value, self._limit)
        self.values.append(text)
        self.is_new = True
        self._size += len(text) + 1
        while self._size > self._limit:
            self._size -= len(self.values.popleft()) + 1

    def tail(self) -> bytes:
        """Any thread: the JSON array of the last values, as many as may be told while the job runs; empty for none."""
        kept: list[bytes] = []
        size = 2
        for text in reversed(list(self.values)):
            size += len(text) + 1
            if size > MAX_TOLD:
                break
            kept.append(text)
        return b"[" + b",".join(reversed(kept)) + b"]" if kept else b""


def encoded(of: dict[int, Yielded], position: int) -> bytes:
    """The JSON array of what a job has yielded, which is then forgotten; empty for nothing."""
    yielded = of.pop(position, None)
    return b"[" + b",".join(yielded.values) + b"]" if yielded is not None and yielded.values else b""


class Partials:
    """Collects the values that the jobs at work yield, `limit` bytes of each."""

    def __init__(self, limit: int) -> None:
        self._limit = limit

    def collect(self, main: Callable[..., Any], *, is_async: bool) -> Callable[..., Any]:
        """A function that runs a generator function to its end, and returns what that returns."""

        def run(*args: Any, **kwargs: Any) -> Any:
            generator, yielded = main(*args, **kwargs), self._begin()
            while True:
                try:
                    value = next(generator)
                except StopIteration as end:
                    return end.value
                yielded.add(value)

        async def run_async(*args: Any, **kwargs: Any) -> None:
            generator, yielded = main(*args, **kwargs), self._begin()
            try:
                async for value in generator:
                    yielded.add(value)
            finally:
                await generator.aclose()

        return run_async if is_async else run

    def _begin(self) -> Yielded:
        yielded = Yielded(self._limit)
        errand, position = context.now()
        if errand is not None:
            errand.yielded[position] = yielded
        return yielded
