"""What jobs tell before they end: values that generators yield, and how far they are."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

from dts.worker import context
from dts.worker.jsonvalue import encode_value


class Yielded:
    """The encoded values that one job has yielded: the last ones, as far as `limit` bytes go."""

    def __init__(self, limit: int) -> None:
        self.values: deque[bytes] = deque()
        self.untold: list[bytes] = []
        """Those that no Progress has carried yet."""
        self._limit = limit
        self._size = 0

    def add(self, value: Any) -> None:
        """Take one more. Raises ResultNotJSON or ResultTooLarge."""
        text = encode_value(value, self._limit)
        self.values.append(text)
        self.untold.append(text)
        self._size += len(text) + 1
        while self._size > self._limit:
            self._size -= len(self.values.popleft()) + 1
        del self.untold[: -len(self.values) or None]


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
