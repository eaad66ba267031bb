"""What becomes of results: they are written as rows, or handed to a function."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Protocol, runtime_checkable

import msgspec

from dts.client.order import RowOrder
from dts.client.output import Output
from dts.client.rows import KEPT_FIELDS, Results, RowFormat
from dts.client.run.ledger import Ledger
from dts.client.run.ledger_state import LedgerState
from dts.client.threads import in_thread

ResultFunction = Callable[[dict[str, Any]], object]
"""Takes one result as a dict: a row's fields, and id, attempt, worker, version, started. May be `async def`."""

_FINISH_WRITING = 5.0  # seconds that a write under way may take when the run is interrupted


@runtime_checkable
class ResultProcessor(Protocol):
    """Takes the results of a run as they come, in no particular order; each line has exactly one.

    `keep_arguments` says whether `Results.block` is to hold the jobs' arguments, which costs memory.
    """

    keep_arguments: bool

    async def begin(self) -> None:
        """The run has been opened: results may follow."""
        ...

    async def process(self, results: Sequence[Results]) -> None:
        """Take results over. When this returns they are safe, and the server may forget them."""
        ...


@runtime_checkable
class DurableProcessor(ResultProcessor, Protocol):
    """One that can say when what it took over is on disk: only then the server is told that it may forget it."""

    async def commit(self, done: Mapping[int, int], local: Sequence[int], counts: tuple[int, int]) -> None:
        """Have on disk what was processed since the last time.

        That is the jobs `done` of each block, by number, and the lines `local` that became no jobs; `counts` is how
        many lines have succeeded and failed so far.
        """
        ...


class RowWriter:
    """Writes rows to `out`, and those of jobs that failed to `errors` when it is given.

    Writing happens in a thread, so that a slow disk or a pipe that nobody reads does not stop the event loop. With a
    `ledger` it is noted there what is written; `resumed` is what it said when the run is resumed. With
    `keep_order` rows are written in the order of their lines.
    """

    def __init__(
        self,
        out: Output,
        errors: Output | None = None,
        *,
        row_format: RowFormat | None = None,
        ledger: Ledger | None = None,
        resumed: LedgerState | None = None,
        keep_order: bool = False,
    ) -> None:
        self._out = out
        self._errors = errors
        self._ledger = ledger
        self._resumed = resumed
        self._order: RowOrder | None = None
        if keep_order:
            self._order = RowOrder() if resumed is None else RowOrder(resumed.next_line, resumed.held.values())
        self._format = row_format or RowFormat()
        self._lock = asyncio.Lock()
        self.keep_arguments = not KEPT_FIELDS.isdisjoint(self._format.fields)

    async def begin(self) -> None:
        """Empty the files, or cut them to where a run that is resumed was.

        Raises:
            ClientError: they cannot be written.
        """
        sizes = (None, None) if self._resumed is None else self._resumed.sizes
        for each, size in zip((self._out, self._errors), sizes, strict=True):
            if each is not None:
                each.begin(size)
                if self._format.header and not size and each.written()[0] == 0:
                    each.write(self._format.header)

    def has_room(self, line: int) -> bool:
        """Whether a block that begins with that line should be sent, or so many rows wait for earlier ones."""
        return self._order is None or not self._order.full or line <= self._order.next_line

    async def process(self, results: Sequence[Results]) -> None:
        """Write the rows of some results.

        Raises:
            ClientError: they cannot be written.
        """
        if self._order is not None:
            ready = self._order.add(row for each in results for row in self._format.rows(each))
            apart = self._errors is not None
            out = b"".join(row for _, failed, row in ready if not (failed and apart))
            failed = b"".join(row for _, failed, row in ready if failed and apart)
        else:
            rows = [self._format.format(each) for each in results]
            failed = b"".join(each.failed for each in rows)
            out = b"".join(each.succeeded for each in rows)
        if self._errors is None:
            out, failed = out + failed, b""
        async with self._lock:
            await _finish(in_thread(lambda: self._write(out, failed)))

    async def commit(self, done: Mapping[int, int], local: Sequence[int], counts: tuple[int, int]) -> None:
        """Note what was written in the ledger, and have both on disk.

        Raises:
            ClientError: they cannot be written.
        """
        async with self._lock:
            await _finish(in_thread(lambda: self._commit(done, local, counts)))

    def _commit(self, done: Mapping[int, int], local: Sequence[int], counts: tuple[int, int]) -> None:
        files = [self._out, self._errors]
        for each in files:
            if each is not None:
                each.sync()
        if self._ledger is not None:
            (size, crc), (error_size, error_crc) = [(0, 0) if each is None else each.written() for each in files]
            waiting = (0, ()) if self._order is None else (self._order.next_line, self._order.take_fresh())
            self._ledger.wrote(
                (size, error_size), (crc, error_crc), counts, done, local, next_line=waiting[0], held=waiting[1]
            )
            self._ledger.sync()

    def _write(self, out: bytes, failed: bytes) -> None:
        if out:
            self._out.write(out)
        if failed and self._errors is not None:
            self._errors.write(failed)


class FunctionProcessor:
    """Calls a function with each result."""

    keep_arguments = False

    def __init__(self, function: ResultFunction) -> None:
        self._function = function
        self._format = RowFormat(("id", "attempt", "worker", "version", "started"))

    async def begin(self) -> None:
        """There is nothing to prepare."""

    async def process(self, results: Sequence[Results]) -> None:
        """Call the function with each result, and wait for it when it is asynchronous."""
        for each in results:
            rows = self._format.format(each)
            for row in msgspec.json.Decoder(dict[str, Any]).decode_lines(rows.succeeded + rows.failed):
                returned = self._function(row)
                if isinstance(returned, Awaitable):
                    await returned


async def _finish(writing: asyncio.Future[None]) -> None:
    """Wait for a write; when interrupted, for a moment longer, so that no row is left half written."""
    try:
        await asyncio.shield(writing)
    except asyncio.CancelledError:
        with suppress(TimeoutError):
            async with asyncio.timeout(_FINISH_WRITING):
                await writing
        raise
