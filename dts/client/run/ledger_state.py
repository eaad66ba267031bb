"""Reads a ledger: which lines have their row, and which block every other one is in."""

from __future__ import annotations

import os
from array import array
from base64 import b64decode
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from zlib import crc32

import msgspec

from dts.errors import ClientError
from dts.model import bitmap

NEW = ""
"""The id of a run that is still to be opened."""

Held = tuple[int, bool, bytes]
"""A row that waits for those of earlier lines: its line, whether it failed, its bytes."""


class Header(msgspec.Struct):
    """What a run is made of: a command that differs in one of these is another run."""

    id: str
    server: str
    function: str
    block_size: int
    max_body: int
    settings: dict[str, Any] = {}


@dataclass(slots=True)
class KnownBlock:
    """A block that was cut before the run was resumed; its number is negative when its run is gone from the server.

    `done` is the bitmap of jobs whose rows are in OUTFILE, `lost` of those that need another block, since their rows
    were there and are not any more, or their run is gone; `moved` of those that have got one since.
    """

    number: int
    lines: array[int]
    hashes: bytes
    stored: bool = False
    done: int = 0
    lost: int = 0
    moved: int = 0

    @property
    def count(self) -> int:
        """How many jobs it has."""
        return len(self.lines)


@dataclass(slots=True)
class LedgerState:
    """What a ledger says: the run, its blocks by number, and how far OUTFILE is right.

    `local` has the lines with rows that no job was for. `sizes` is how many bytes of OUTFILE and errfile count, and
    `lost_rows` how many rows there were after that; `vouched` is whether the files were ever found to be what the
    ledger says. `lost_lines` says of each line that needs another block which one it was in, and where. `closed` is
    how many lines there are, once that is known.
    """

    header: Header
    blocks: dict[int, KnownBlock] = field(default_factory=dict)
    local: set[int] = field(default_factory=set)
    sizes: tuple[int, int] = (0, 0)
    held: dict[int, Held] = field(default_factory=dict)
    next_line: int = 1
    succeeded: int = 0
    failed: int = 0
    lost_rows: int = 0
    vouched: bool = False
    closed: int | None = None
    finished: bool = False
    end: int = 0
    lost_lines: dict[int, tuple[KnownBlock, int]] = field(default_factory=dict)

    def add(self, block: KnownBlock, *, lost: int) -> None:
        """Note a block, of which the jobs in the bitmap `lost` need another one."""
        _add_block(self, block)
        _lose(self, block, lost)

    @property
    def all_stored(self) -> bool:
        """Whether the server has all lines, and no row was lost: INFILE is not needed any more."""
        return self.closed is not None and not self.lost_lines and all(each.stored for each in self.blocks.values())


def load_ledger(path: str | os.PathLike[str], outputs: Sequence[str | None]) -> LedgerState | None:
    """What the ledger says that is there, None if there is none; `outputs` are the names of OUTFILE and errfile.

    Rows are counted as written up to where the files are what the ledger says.

    Raises:
        ClientError: it cannot be read, it is not a ledger, or rows in OUTFILE are not those that were written.
    """
    try:
        data = Path(path).read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ClientError(f"cannot read {path}: {error.strerror}") from error
    state: LedgerState | None = None
    checks = [_OutputCheck(each) for each in outputs]
    try:
        for line in data[: data.rfind(b"\n") + 1].splitlines(keepends=True):
            record = msgspec.json.decode(line)
            if state is None:
                state = LedgerState(msgspec.convert(record["run"], Header))
            else:
                _apply(state, record, checks)
            state.end += len(line)
    except (msgspec.MsgspecError, KeyError, TypeError, ValueError, UnicodeDecodeError) as error:
        raise ClientError(f"{path} is not a ledger of dts-client: {error!r}") from error
    finally:
        for check in checks:
            check.close()
    return state


def is_unfinished(path: str | os.PathLike[str]) -> bool:
    """Whether there is a ledger of a run that has not finished.

    Raises:
        ClientError: it cannot be read.
    """
    try:
        data = Path(path).read_bytes()
    except FileNotFoundError:
        return False
    except OSError as error:
        raise ClientError(f"cannot read {path}: {error.strerror}") from error
    return not data.endswith(b'{"finished":true}\n')


def forget_run(state: LedgerState) -> None:
    """The run is gone from the server: all lines without a row go into another one."""
    blocks = list(state.blocks.values())
    state.blocks = {}
    for index, block in enumerate(blocks):
        block.number, block.stored = -1 - index, True
        state.blocks[block.number] = block
        _lose(state, block, bitmap.full(block.count) & ~(block.done | block.moved))
    state.closed = None
    state.end = 0  # a ledger says of one run only what it has: this becomes another one


def _apply(state: LedgerState, record: dict[str, Any], checks: list[_OutputCheck]) -> None:
    match record:
        case {"block": number, "first": first, "hash": packed}:
            hashes = b64decode(packed)
            lines = array("Q", record.get("lines") or range(first, first + len(hashes) // 8))
            done, lost, moved = (int(record.get(name, "0"), 16) for name in ("done", "lost", "moved"))
            stored = bool(record.get("stored"))
            _add_block(state, KnownBlock(number, lines, hashes, stored, done, lost, moved))
        case {"stored": number}:
            state.blocks[number].stored = True
        case {"gone": number}:
            _give_up(state, number)
        case {"at": sizes}:
            _apply_rows(state, record, sizes, checks)
        case {"closed": lines}:
            state.closed = lines
        case {"finished": True}:
            state.finished = True


def _add_block(state: LedgerState, block: KnownBlock) -> None:
    state.blocks[block.number] = block
    if state.lost_lines:
        for line in block.lines:
            if (before := state.lost_lines.pop(line, None)) is not None:
                lost, index = before
                lost.lost &= ~(1 << index)
                lost.moved |= 1 << index
    _lose(state, block, block.lost)


def _give_up(state: LedgerState, number: int) -> None:
    """Give a block's lines to others. It keeps its place: the input is compared with the blocks in their order."""
    block, fresh = state.blocks[number], min(0, *state.blocks) - 1
    block.number, block.stored = fresh, True
    state.blocks = {fresh if key == number else key: each for key, each in state.blocks.items()}
    _lose(state, block, bitmap.full(block.count) & ~(block.done | block.moved))


def _lose(state: LedgerState, block: KnownBlock, jobs: int) -> None:
    block.lost |= jobs
    for index in bitmap.indices(jobs):
        state.lost_lines[block.lines[index]] = (block, index)


def _apply_rows(state: LedgerState, record: dict[str, Any], sizes: list[int], checks: list[_OutputCheck]) -> None:
    """Count rows as written if they are there; else their lines are to be run again."""
    done = {int(number): int(jobs, 16) for number, jobs in record["done"].items()}
    ends = zip(checks, sizes, record["sums"], strict=True)
    if state.lost_rows or not all([check.holds(size, crc) for check, size, crc in ends]):
        state.lost_rows += max(1, sum(jobs.bit_count() for jobs in done.values()))
        for number, jobs in done.items():
            _lose(state, state.blocks[number], jobs)
        if not state.vouched:
            _lose_all(state)
        return
    state.vouched = True
    for number, jobs in done.items():
        state.blocks[number].done |= jobs
    for line in record.get("local", ()):
        state.local.add(line)
        if (before := state.lost_lines.pop(line, None)) is not None:  # no block could take it: this is its row
            block, index = before
            block.lost &= ~(1 << index)
            block.done |= 1 << index
    state.sizes = sizes[0], sizes[1]
    state.succeeded, state.failed = record["rows"]
    if "next" in record:
        for line in range(state.next_line, record["next"]):
            state.held.pop(line, None)
        state.next_line = record["next"]
        state.held.update((line, (line, failed, row.encode())) for line, failed, row in record["hold"])


def _lose_all(state: LedgerState) -> None:
    """Count no row as written: a ledger that was rewritten has the jobs that are done in its blocks' records."""
    for block in state.blocks.values():
        written, block.done = block.done, 0
        state.lost_rows += written.bit_count()
        _lose(state, block, written)


class _OutputCheck:
    """Checks that a file still has what was written to it, from its beginning on."""

    def __init__(self, path: str | None) -> None:
        self._path = path
        self._at = 0
        try:
            self._file = None if path is None else open(path, "rb")  # noqa: SIM115
        except FileNotFoundError:
            self._file = None
        except OSError as error:
            raise ClientError(f"cannot read {path}: {error.strerror}") from error

    def holds(self, size: int, crc: int) -> bool:
        """Whether the file has `size` bytes at least, of which those not checked so far have the checksum.

        Raises:
            ClientError: they are others than were written.
        """
        if size <= self._at:
            return True
        data = b"" if self._file is None else self._file.read(size - self._at)
        if len(data) < size - self._at:
            return False
        if crc32(data) != crc:
            raise ClientError(
                f"{self._path} is not what was written: bytes {self._at} to {size} have changed. Put them back to "
                "resume the run, or begin anew with --overwrite"
            )
        self._at = size
        return True

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
