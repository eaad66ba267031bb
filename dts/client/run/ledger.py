"""The ledger of a run, `OUTFILE.dts`: what was sent and what is written, so that a client that died can go on.

One JSON object a line, only ever appended. A block is in it before it is sent. Rows are in OUTFILE before the ledger
says so, and a receipt goes back to the server only once both are on disk: whatever the ledger does not say is cut off
OUTFILE when the run is resumed, and comes again. A last line that is not whole is one that was never written.

    {"run": {…}}                                the run on the server, and what it is made of
    {"block": 3, "first": 449, "hash": "…"}     lines that go into a block, with a hash of each
    {"stored": 3}                               the server has it
    {"gone": 4}                                 nobody takes that block: its lines follow in others
    {"at": [5120, 0], "done": {"3": "ff"}, …}   OUTFILE and errfile have so many bytes, with rows for these jobs
    {"closed": 1000}                            INFILE was read to its end
    {"finished": true}                          every line has its row

`ledger_state` reads it.
"""

from __future__ import annotations

import asyncio
import os
from array import array
from base64 import b64encode
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any
from zlib import adler32, crc32

import msgspec

from dts.client.run.ledger_state import Header, Held, LedgerState
from dts.client.threads import in_thread
from dts.errors import ClientError

SUFFIX = ".dts"


def hash_lines(args: Sequence[bytes], kwargs: Sequence[bytes] | None) -> bytes:
    """64 bits for each line, of its arguments: any change of up to four bytes is found, others but by a rare chance.

    Two checksums that C computes cost a tenth of what a cryptographic hash of each line does.
    """
    sums: Iterable[int] = map(crc32, args)
    others: Iterable[int] = map(adler32, args)
    if kwargs is not None:
        sums, others = map(crc32, kwargs, sums), map(adler32, kwargs, others)
    return array("I", sums).tobytes() + array("I", others).tobytes()


def line_hashes(packed: bytes) -> list[tuple[int, int]]:
    """The hash of each line out of what `hash_lines` made."""
    both = array("I", packed)
    half = len(both) // 2
    return list(zip(both[:half], both[half:], strict=True))


class Ledger:
    """Writes a ledger. Every method may raise ClientError when it cannot be written."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = os.fspath(path)
        self._descriptor = -1
        self._appended = self._synced = 0
        self._syncing: asyncio.Future[None] | None = None

    def check(self) -> None:
        """Make sure that a ledger can be made, and change none that is there.

        Raises:
            ClientError: its folder takes no new file.
        """
        fresh = f"{self.path}~"
        try:
            os.close(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o666))
            os.unlink(fresh)
        except OSError as error:
            raise ClientError(
                f"cannot write {self.path}, which notes how far the run is: {error.strerror}. "
                "Write the rows to a file in a folder of your own, or to - for a run that cannot be resumed"
            ) from error

    def begin(self, header: Header, records: Iterable[object] = ()) -> None:
        """Make a new ledger in the place of any that is there, at once."""
        fresh = f"{self.path}~"
        self.close()
        try:
            self._descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC, 0o666)
            for record in ({"run": header}, *records):
                self._append(record)
            os.fsync(self._descriptor)
            os.replace(fresh, self.path)
            _sync_folder(self.path)
        except OSError as error:
            raise self._failure(error) from error

    def reopen(self, state: LedgerState, outputs: Sequence[str | None]) -> None:
        """Go on after what `state` was read from; without what it said of rows that are not there any more.

        A state that was not read, but made of what the server has, becomes a new ledger.
        """
        if state.lost_rows or state.lost_lines or not state.end:
            ends = zip(outputs, state.sizes, strict=True)
            self.begin(state.header, _records(state, [_checksum(path, size) for path, size in ends]))
            return
        try:
            self._descriptor = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
            os.ftruncate(self._descriptor, state.end)
        except OSError as error:
            raise self._failure(error) from error

    def rewrite(self, state: LedgerState, sums: Sequence[int]) -> None:
        """Make a new ledger that says `state`, of files with these checksums."""
        self.begin(state.header, _records(state, sums))
        self.close()

    async def block(self, number: int, lines: Sequence[int], hashes: bytes) -> None:
        """Note a block, on disk when this returns."""
        self._append(_block_record(number, lines, hashes))
        await self._sync_together()

    def stored(self, number: int) -> None:
        """Note that the server has a block."""
        self._append({"stored": number})

    def gave_up(self, number: int) -> None:
        """Note that the server never gets a block: its lines go into others."""
        self._append({"gone": number})

    def wrote(
        self,
        sizes: tuple[int, int],
        sums: tuple[int, int],
        counts: tuple[int, int],
        done: Mapping[int, int],
        local: Sequence[int],
        *,
        next_line: int = 0,
        held: Sequence[Held] = (),
    ) -> None:
        """Note what the output has: bytes, and what came since the last time: checksums, jobs, other lines, rows."""
        record: dict[str, Any] = {"at": sizes, "sums": sums, "rows": counts}
        record["done"] = {str(number): f"{jobs:x}" for number, jobs in done.items()}
        if local:
            record["local"] = local
        if next_line:
            record["next"] = next_line
            record["hold"] = [(line, failed, row.decode()) for line, failed, row in held]
        self._append(record)

    def closed(self, lines: int) -> None:
        """Note that the input has ended, after so many lines."""
        self._append({"closed": lines})

    def finished(self) -> None:
        """Note that every line has its row."""
        self._append({"finished": True})
        self.sync()

    def sync(self) -> None:
        """Have all of it on disk. Blocks."""
        appended = self._appended
        try:
            os.fsync(self._descriptor)
        except OSError as error:
            raise self._failure(error) from error
        self._synced = max(self._synced, appended)

    def close(self) -> None:
        """Close the file; may be called twice."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
        self._descriptor = -1

    async def _sync_together(self) -> None:
        """Have what was appended so far on disk; those who ask meanwhile share one fsync."""
        mine = self._appended
        while self._synced < mine:
            if self._syncing is None or self._syncing.done():
                self._syncing = in_thread(self.sync)
            await asyncio.shield(self._syncing)

    def _append(self, record: object) -> None:
        line = msgspec.json.encode(record) + b"\n"
        try:
            written = os.write(self._descriptor, line)
            while written < len(line):
                written += os.write(self._descriptor, line[written:])
        except OSError as error:
            raise self._failure(error) from error
        self._appended += 1

    def _failure(self, error: OSError) -> ClientError:
        return ClientError(f"cannot write {self.path}: {error.strerror}")


def _block_record(number: int, lines: Sequence[int], hashes: bytes) -> dict[str, Any]:
    record: dict[str, Any] = {"block": number, "first": lines[0], "hash": b64encode(hashes).decode()}
    if lines[-1] - lines[0] + 1 != len(lines):
        record["lines"] = list(lines)
    return record


def _records(state: LedgerState, sums: Sequence[int]) -> Iterator[dict[str, Any]]:
    """What a ledger has to say for this to be its state."""
    for block in state.blocks.values():
        flags = {"stored": block.stored, "done": f"{block.done:x}", "lost": f"{block.lost:x}"}
        yield {**_block_record(block.number, block.lines, block.hashes), **flags, "moved": f"{block.moved:x}"}
    yield {
        "at": state.sizes,
        "sums": list(sums),
        "rows": (state.succeeded, state.failed),
        "done": {},
        "local": sorted(state.local),
        "next": state.next_line,
        "hold": [(line, failed, row.decode()) for line, failed, row in state.held.values()],
    }
    if state.closed is not None:
        yield {"closed": state.closed}


def _checksum(path: str | None, size: int) -> int:
    if path is None or not size:
        return 0
    with open(path, "rb") as file:
        return crc32(file.read(size))


def _sync_folder(path: str) -> None:
    """Have the file's name on disk, too."""
    descriptor = os.open(os.path.dirname(path) or ".", os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
