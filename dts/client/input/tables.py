"""CSV and TSV: the first row names the columns, each further one is a call with them as keyword arguments."""

from __future__ import annotations

import csv
from collections.abc import AsyncGenerator, Iterator

import msgspec

from dts.client.components import Batch, FileComponent, unreadable
from dts.errors import ClientError

_encode = msgspec.json.Encoder().encode
_MAX_ROWS = 512


class TableFileIOComponent(FileComponent):
    """Rows of columns, separated by `delimiter`; values are strings, and may have newlines in quotes.

    A row counts as one line, the first one after the names as line 1. Blank lines are passed over. A row with more or
    fewer columns than there are names is bad.
    """

    delimiter = ","

    async def batches(self, max_line: int) -> AsyncGenerator[Batch, None]:
        """All rows of the file.

        Raises:
            ClientError: the file cannot be read (on), or its first row does not name the columns.
        """
        self.open()
        names: list[str] | None = None
        records = RecordAssembler(max_line)
        try:
            while data := await self._read():
                for chunk in _chunks(records.feed(data)):
                    names, batch = self._convert(chunk, names, max_line)
                    yield batch
            for chunk in _chunks(records.finish()):
                names, batch = self._convert(chunk, names, max_line)
                yield batch
        finally:
            self.close()

    def parse(self, data: bytes, lines: list[bytes]) -> Batch:
        """Not used: a row may be several lines."""
        raise NotImplementedError

    def _convert(
        self, records: list[bytes | None], names: list[str] | None, max_line: int
    ) -> tuple[list[str] | None, Batch]:
        kwargs: list[bytes] = []
        bad: dict[int, str] = {}
        for record in records:
            if names is None:
                names = self._names(record)
                continue
            try:
                kwargs.append(self._kwargs(record, names, max_line))
            except ValueError as error:
                bad[len(kwargs)] = str(error)
                kwargs.append(b"")
        return names, Batch([b""] * len(kwargs), kwargs, bad)

    def _names(self, record: bytes | None) -> list[str]:
        try:
            names = self._columns(record or b"")
        except ValueError as error:
            raise ClientError(f"{self.name} cannot be read as a table: its first row: {error}") from error
        if len(set(names)) != len(names) or "" in names:
            raise ClientError(f"the first row of {self.name} must name each column, and none twice: {names}")
        return names

    def _kwargs(self, record: bytes | None, names: list[str], max_line: int) -> bytes:
        if record is None:
            raise ValueError(f"the row is over the limit of {max_line} bytes")
        columns = self._columns(record)
        if len(columns) != len(names):
            raise ValueError(f"the row has {len(columns)} columns, and there are {len(names)} names")
        return _encode(dict(zip(names, columns, strict=True)))

    def _columns(self, record: bytes) -> list[str]:
        try:
            text = record.decode()
        except UnicodeDecodeError as error:
            raise ValueError(f"the row {unreadable(record, error)}") from error
        try:
            [columns] = csv.reader([f"{line}\n" for line in text.split("\n")], delimiter=self.delimiter)
        except csv.Error as error:
            raise ValueError(f"the row cannot be read: {error}") from error
        return columns


class TabFileIOComponent(TableFileIOComponent):
    """Rows of columns, separated by tabs."""

    delimiter = "\t"


class RecordAssembler:
    """Cuts chunks of bytes into records: lines, but for newlines in quotes. None stands for one over `max_record`."""

    def __init__(self, max_record: int) -> None:
        self._max_record = max_record
        self._held: list[bytes] = []
        self._size = 0
        self._quoted = False
        self._tail = b""
        self._begun = False

    def feed(self, data: bytes) -> Iterator[bytes | None]:
        """The records that `data` completes, without their ends."""
        lines = (self._tail + data).split(b"\n")
        self._tail = lines.pop()
        for line in lines:
            yield from self._line(line)
        if len(self._tail) > self._max_record:  # only the quotes in it matter from here on
            self._size += len(self._tail)
            self._quoted ^= bool(self._tail.count(b'"') & 1)
            self._tail = b""

    def finish(self) -> Iterator[bytes | None]:
        """The last record when it has no newline."""
        tail, self._tail = self._tail, b""
        if tail or self._size:
            yield from self._line(tail, last=True)

    def _line(self, line: bytes, *, last: bool = False) -> Iterator[bytes | None]:
        if not self._begun:
            self._begun = True
            line = line.removeprefix(b"\xef\xbb\xbf")
        self._size += len(line) + 1
        if line.count(b'"') & 1:
            self._quoted = not self._quoted
        if self._size <= self._max_record:
            self._held.append(line)
        if self._quoted and not last:
            return
        record = b"\n".join(self._held).removesuffix(b"\r") if self._size <= self._max_record else None
        self._held.clear()
        self._size = 0
        self._quoted = False
        if record is None or record.strip():
            yield record


def _chunks(records: Iterator[bytes | None]) -> Iterator[list[bytes | None]]:
    chunk: list[bytes | None] = []
    for record in records:
        chunk.append(record)
        if len(chunk) >= _MAX_ROWS:
            yield chunk
            chunk = []
    if chunk:
        yield chunk
