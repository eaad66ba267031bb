"""`--changed` and `--retry-failed`: a run over the lines whose rows are not to be kept, beside those that are.

OUTFILE is written anew with the rows that stay, and the ledger with a state in which the other lines have none: from
there on it is a run that is resumed. The new OUTFILE is complete before it takes the place of the old one.
"""

from __future__ import annotations

import argparse
import mmap
import os
import re
from array import array
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, aclosing
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO
from zlib import crc32

from dts.client.command.files import SUFFIX_NEW, RunFiles, make_writer, put_in_place, shape
from dts.client.components import STANDARD_STREAM, Batch, DataSource
from dts.client.output import OutputFile
from dts.client.run.ledger import hash_lines, line_hashes
from dts.client.run.ledger_state import NEW, Held, KnownBlock, LedgerState
from dts.errors import ClientError, ConfigError, InputChanged
from dts.model import MAX_BLOCK_SIZE, bitmap

_ROW = re.compile(rb'\{"line": (\d+), "success": (true|false)')
_NO_LIMIT = 1 << 62

Hash = tuple[int, int]


class _OldRows:
    """The rows of OUTFILE and errfile by line."""

    def __init__(self, paths: tuple[str | None, str | None], sizes: tuple[int, int], stack: ExitStack) -> None:
        self._maps = [_map(path, size, stack) for path, size in zip(paths, sizes, strict=True)]
        self._at: list[array[int]] = [array("q"), array("q")]
        self._failed = bytearray()
        for which, data in enumerate(self._maps):
            at = 0
            while at < len(data):
                if (match := _ROW.match(data, at)) is None:
                    raise ConfigError(f"{paths[which]} has rows that are not JSON: they cannot be told apart")
                self._note(which, int(match[1]), at, failed=match[2] == b"false")
                at = data.find(b"\n", at) + 1

    def _note(self, which: int, line: int, at: int, *, failed: bool) -> None:
        missing = line + 1 - len(self._failed)
        if missing > 0:
            self._failed.extend(bytes(missing))
            for each in self._at:
                each.extend([-1] * missing)
        self._at[which][line] = at
        self._failed[line] = failed

    def get(self, line: int, now: int) -> Held | None:
        """The row of a line, as that of line `now`; None if there is none."""
        if line >= len(self._failed):
            return None
        for data, places in zip(self._maps, self._at, strict=True):
            if (at := places[line]) >= 0:
                row = data[at : data.find(b"\n", at) + 1]
                if now != line:
                    row = b'{"line": %d%b' % (now, row[row.index(b",") :])
                return now, bool(self._failed[line]), row
        return None


def _create(name: str, stack: ExitStack) -> BinaryIO:
    try:
        return stack.enter_context(Path(name).open("wb"))
    except OSError as error:
        raise ClientError(f"cannot write {name}: {error.strerror}") from error


def _discard(names: Sequence[str | None]) -> None:
    for name in filter(None, names):
        Path(name).unlink(missing_ok=True)


def _map(path: str | None, size: int, stack: ExitStack) -> mmap.mmap | bytes:
    if path is None or not size:
        return b""
    with Path(path).open("rb") as file:
        return stack.enter_context(mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ))


class _OldLines:
    """The hashes of the lines that the last run was over."""

    def __init__(self, state: LedgerState) -> None:
        self._hashes: dict[int, Hash] = {}
        for block in state.blocks.values():
            self._hashes.update(zip(block.lines, line_hashes(block.hashes), strict=True))
        self._by_hash: dict[Hash, list[int]] | None = None

    def at(self, line: int) -> Hash | None:
        """The hash of a line."""
        return self._hashes.get(line)

    def find(self, line: int, now: Hash, *, anywhere: bool) -> int | None:
        """A line that was what `line` is now: that one if it is unchanged, else one that was the same `anywhere`."""
        if self._hashes.get(line) == now:
            return line
        if not anywhere:
            return None
        if self._by_hash is None:
            self._by_hash = defaultdict(list)
            for number, known in self._hashes.items():
                self._by_hash[known].append(number)
        same = self._by_hash.get(now)
        return same[0] if same else None


@dataclass
class _NewFiles:
    """The files as they become, and the state of the run over them."""

    state: LedgerState
    out: BinaryIO
    errors: BinaryIO | None
    keep_order: bool
    sums: list[int] = field(default_factory=lambda: [0, 0])
    sizes: list[int] = field(default_factory=lambda: [0, 0])
    expected: int = 1
    in_order: bool = True

    def keep(self, row: Held) -> None:
        """Take over a row."""
        line, failed, text = row
        if failed:
            self.state.failed += 1
        else:
            self.state.succeeded += 1
        self.in_order = self.in_order and line == self.expected
        self.expected = line + 1
        if self.keep_order and not self.in_order:
            self.state.held[line] = row
            return
        self.state.next_line = line + 1
        which = 1 if failed and self.errors is not None else 0
        file = self.errors if which and self.errors is not None else self.out
        file.write(text)
        self.sums[which] = crc32(text, self.sums[which])
        self.sizes[which] += len(text)


async def prepare(files: RunFiles, options: argparse.Namespace) -> RunFiles:
    """The files of a run over the lines whose rows are not to be kept.

    Raises:
        InputChanged: the input has changed, and `--changed` is not given.
        ConfigError: there is no run whose rows could be kept.
        ClientError: a file cannot be read or written.
    """
    old, source, out = files.resumed, files.source, files.out
    if old is None or source is None or not isinstance(out, OutputFile):
        raise ConfigError(f"{options.outfile} holds no run: --changed and --retry-failed need the rows of one")
    if source.identity is None or source.path == STANDARD_STREAM:
        raise ConfigError("--changed and --retry-failed read INFILE twice: it must be a file")
    state = LedgerState(old.header)
    state.header.id = NEW
    if options.format is not None or options.output_format != "json":
        raise ConfigError("--changed and --retry-failed keep rows that are JSON: not with --format or --output-format")
    names = [None if path is None else f"{path}{SUFFIX_NEW}" for path in files.outputs]
    try:
        becoming = await _write_new(names, files, state, options)
    except BaseException as error:  # a part of the rows must never take the place of OUTFILE
        _discard(names)
        if isinstance(error, OSError):
            raise ClientError(f"cannot write {names[0]}: {error.strerror}") from error
        raise
    state.sizes = becoming.sizes[0], becoming.sizes[1]
    assert files.ledger is not None
    files.ledger.rewrite(state, becoming.sums)
    put_in_place((out, files.errors), files.outputs)
    return files.with_state(state, make_writer(options, out, files.errors, files.ledger, state))


async def _write_new(
    names: Sequence[str | None], files: RunFiles, state: LedgerState, options: argparse.Namespace
) -> _NewFiles:
    """Write the rows that stay into new files, on disk when this returns."""
    old, source = files.resumed, files.source
    assert old is not None
    assert source is not None
    with ExitStack() as opened:
        rows = _OldRows(files.outputs, old.sizes, opened)
        new_files = [None if name is None else _create(name, opened) for name in names]
        assert new_files[0] is not None
        becoming = _NewFiles(state, new_files[0], new_files[1], options.keep_order)
        comparison = _Comparison(_OldLines(old), rows, becoming, options.changed, options.retry_failed)
        await comparison.go(shape(type(source)(options.infile, **source.how), options))
        for file in filter(None, new_files):
            file.flush()
            os.fsync(file.fileno())
    return becoming


@dataclass
class _Comparison:
    """The input as it is now beside the lines of the last run and their rows."""

    lines: _OldLines
    rows: _OldRows
    becoming: _NewFiles
    changed: bool
    retry_failed: bool

    async def go(self, source: DataSource) -> None:
        """Go through the input: keep rows, and note the lines that have none."""
        number = 1
        async with aclosing(source.batches(_NO_LIMIT)) as batches:
            async for batch in batches:
                for first, some in _pieces(batch, number):
                    self._note_block(first, some)
                number += len(batch.args)

    def _note_block(self, first: int, batch: Batch) -> None:
        packed = hash_lines(batch.args, batch.kwargs)
        done = 0
        for index, now in enumerate(line_hashes(packed)):
            if (row := self._row(first + index, now)) is not None and not (row[1] and self.retry_failed):
                self.becoming.keep(row)
                done |= 1 << index
        state, lines = self.becoming.state, array("Q", range(first, first + len(batch.args)))
        block = KnownBlock(-1 - len(state.blocks), lines, packed, stored=True, done=done)
        state.add(block, lost=bitmap.full(block.count) & ~done)

    def _row(self, line: int, now: Hash) -> Held | None:
        """The row that a line has already."""
        before = self.lines.find(line, now, anywhere=self.changed)
        if before is None and not self.changed and self.lines.at(line) is not None:
            raise InputChanged(line, f"line {line} of the input is not what it was: --changed runs what is new")
        return None if before is None else self.rows.get(before, line)


def _pieces(batch: Batch, first: int) -> Iterator[tuple[int, Batch]]:
    """The lines of a batch that are good, those that follow one another together, as many as a block takes."""
    begin = 0
    for end in [*sorted(batch.bad), len(batch.args)]:
        for start in range(begin, end, MAX_BLOCK_SIZE):
            stop = min(end, start + MAX_BLOCK_SIZE)
            kwargs = None if batch.kwargs is None else batch.kwargs[start:stop]
            yield first + start, Batch(batch.args[start:stop], kwargs)
        begin = end + 1
