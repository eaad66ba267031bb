"""Results as something to iterate over."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Any

from dts.client.processors import FunctionProcessor, ResultProcessor
from dts.client.rows import Results

_MOST_WAITING = 1000  # results that nobody has taken yet
_MOST_HELD = 100_000  # results that wait for those of earlier lines

Row = dict[str, Any]


class _RowQueue:
    """A processor that passes rows on, one after the other, in the order of the lines if that is wanted."""

    keep_arguments = False

    def __init__(self, *, ordered: bool) -> None:
        self.rows: asyncio.Queue[Row | None] = asyncio.Queue(_MOST_WAITING)
        self._inner = FunctionProcessor(self._take)
        self._ordered = ordered
        self._next_line = 1
        self._held: dict[int, Row] = {}

    async def begin(self) -> None:
        """There is nothing to prepare."""

    async def process(self, results: Sequence[Results]) -> None:
        """Pass results on, at the pace at which they are taken."""
        await self._inner.process(results)

    def has_room(self, line: int) -> bool:
        """Whether a block that begins with that line should be sent, or so many rows wait for earlier ones."""
        return len(self._held) < _MOST_HELD or line <= self._next_line

    async def _take(self, row: Row) -> None:
        if not self._ordered:
            await self.rows.put(row)
            return
        self._held[row["line"]] = row
        while (ready := self._held.pop(self._next_line, None)) is not None:
            self._next_line += 1
            await self.rows.put(ready)


async def stream(
    run: Callable[[ResultProcessor], Awaitable[object]], *, ordered: bool = False
) -> AsyncGenerator[Row, None]:
    """The rows of a run, as `run` does it with a processor; the run is cancelled when they are not read to the end."""
    queue = _RowQueue(ordered=ordered)

    async def work() -> None:
        try:
            await run(queue)
        finally:
            await asyncio.shield(queue.rows.put(None))

    running = asyncio.create_task(work(), name="map")
    try:
        while (row := await queue.rows.get()) is not None:
            yield row
        await running
    finally:
        if not running.done():
            running.cancel()
            while not queue.rows.empty():
                queue.rows.get_nowait()
            with suppress(asyncio.CancelledError):
                await running
