"""Bytes of an input as its lines are in: several files as one, decompressed by their first bytes, in UTF-8.

What is in UTF-16 or UTF-32 is known by its byte order mark.

Every reader has `read`, which blocks and is called in a thread, and `position`, how many bytes of the files it has
read. Memory is bounded: what a few compressed bytes become is given a piece at a time.
"""

from __future__ import annotations

import bz2
import codecs
import lzma
import os
import stat
import zlib
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any, Protocol

from dts.client.threads import ThreadedReader
from dts.errors import ClientError

_MARKS = {
    b"\xff\xfe\0\0": "utf-32-le",
    b"\0\0\xfe\xff": "utf-32-be",
    b"\xff\xfe": "utf-16-le",
    b"\xfe\xff": "utf-16-be",
}
"""Byte order marks of encodings that have two or four bytes a character; a longer mark goes before its beginning."""

_PARQUET = b"PAR1"

_UNREADABLE = "dts.unreadable"


def _unreadable(error: UnicodeError) -> tuple[str, int]:
    """Put a lone surrogate where bytes are no character: the line with it becomes a failed row, no other one does."""
    assert isinstance(error, UnicodeDecodeError)
    return "\ud800", error.end


codecs.register_error(_UNREADABLE, _unreadable)


class Decompressor(Protocol):
    """One of the standard library's, for one stream."""

    eof: bool

    @property
    def unused_data(self) -> bytes:
        """What follows the end of the stream."""
        ...

    def decompress(self, data: bytes, max_length: int = -1) -> bytes:
        """At most so many bytes more."""
        ...


class _Gzip:
    """zlib's decompressor in the way of those of bz2 and lzma: it keeps what it was given and did not use."""

    def __init__(self) -> None:
        self._inner = zlib.decompressobj(wbits=31)

    @property
    def eof(self) -> bool:
        return self._inner.eof

    @property
    def unused_data(self) -> bytes:
        return self._inner.unused_data

    @property
    def needs_input(self) -> bool:
        return not self._inner.unconsumed_tail

    def decompress(self, data: bytes, max_length: int = -1) -> bytes:
        return self._inner.decompress(self._inner.unconsumed_tail + data, max(0, max_length))


def _zstd() -> Any:
    """A decompressor of Zstandard: Python has one from 3.14 on, before that a package."""
    for name, kind in (("compression.zstd", "ZstdDecompressor"), ("backports.zstd", "ZstdDecompressor")):
        try:
            return getattr(import_module(name), kind)()
        except ImportError:
            continue
    raise ClientError("the input is compressed with zstd: install backports.zstd, or pipe it through zstd -dc")


_COMPRESSED: dict[bytes, Callable[[], Any]] = {
    b"\x1f\x8b": _Gzip,
    b"BZh": bz2.BZ2Decompressor,
    b"\xfd7zXZ\x00": lzma.LZMADecompressor,
    b"\x28\xb5\x2f\xfd": _zstd,
}
_LONGEST_MAGIC = max(map(len, _COMPRESSED))


class FilesReader:
    """Files one after the other, each decompressed and in UTF-8. A last line without its end gets one.

    `paths` are names of files, or of directories, which stand for their files by name; `-` is standard input. The first
    `start` bytes are passed over.
    """

    def __init__(self, paths: Sequence[str], *, separator: bytes = b"\n", start: int = 0) -> None:
        self._separator = separator
        self._start = start
        self._paths = list(_expand(paths))
        self._index = 0
        self._readers = [_open(path) for path in self._paths]
        self._unpacked: _Unpacked | None = None
        self._last = b""
        self.position = 0

    @property
    def size(self) -> int | None:
        """How many bytes all files have; None when one is no regular file."""
        total = 0
        for reader in self._readers:
            status = os.fstat(reader.fileno())
            if not stat.S_ISREG(status.st_mode):
                return None
            total += status.st_size
        return total

    @property
    def first(self) -> int:
        """The descriptor of the first file."""
        return self._readers[0].fileno() if self._readers else -1

    @property
    def descriptors(self) -> list[int]:
        """The descriptors of all files."""
        return [reader.fileno() for reader in self._readers]

    def read(self, size: int) -> bytes:
        """At most about `size` bytes more, none at the end.

        Raises:
            OSError: a file cannot be read.
            ClientError: it is not what its first bytes say.
        """
        while self._index < len(self._readers):
            if self._unpacked is None:
                reader = self._readers[self._index]
                self._skip(reader)
                self._unpacked = _Unpacked(reader, self._paths[self._index])
            before = self._unpacked.position
            data = self._unpacked.read(size)
            self.position += self._unpacked.position - before
            if data:
                self._last = data[-1:]
                return data
            self._index += 1
            self._unpacked = None
            if self._index < len(self._readers) and self._last not in (b"", self._separator):
                self._last = self._separator
                return self._separator
        return b""

    def close(self) -> None:
        """Close all files."""
        for reader in self._readers:
            reader.close()

    def _skip(self, reader: ThreadedReader) -> None:
        while self._start > 0 and (data := reader.read(min(self._start, 1024 * 1024))):
            self._start -= len(data)
            self.position += len(data)


class _Unpacked:
    """One file, decompressed and in UTF-8."""

    def __init__(self, reader: ThreadedReader, name: str) -> None:
        self.position = 0
        self._reader = reader
        self._name = name
        self._make: Callable[[], Any] | None = None
        self._stream: Any = None
        self._rest = b""
        self._decoder: codecs.IncrementalDecoder | None = None
        self._begun = False

    def read(self, size: int) -> bytes:
        if not self._begun:
            return self._begin(size)
        data = self._unpack(size)
        if self._decoder is not None:
            return self._decode(data, size)
        return data

    def _begin(self, size: int) -> bytes:
        """The first bytes, which say what the file is."""
        self._begun = True
        data = self._take(size)
        while 0 < len(data) < _LONGEST_MAGIC and any(magic.startswith(data) for magic in (*_COMPRESSED, *_MARKS)):
            more = self._take(size)
            if not more:
                break
            data += more
        self._make = next((make for magic, make in _COMPRESSED.items() if data.startswith(magic)), None)
        if self._make is not None:
            self._rest = data
            data = self._unpack(size)
        if data.startswith(_PARQUET):
            raise ClientError(f"{self._name} is a Parquet file: give --input-format parquet")
        mark = next((mark for mark in _MARKS if data.startswith(mark)), None)
        if mark is not None:
            self._decoder = codecs.getincrementaldecoder(_MARKS[mark])(errors=_UNREADABLE)
            return self._decode(data[len(mark) :], size)
        return data

    def _take(self, size: int) -> bytes:
        data = self._reader.read(size)
        self.position += len(data)
        return data

    def _unpack(self, size: int) -> bytes:
        if self._make is None:
            return self._take(size)
        try:
            return self._decompress(self._make, size)
        except (zlib.error, OSError, lzma.LZMAError, EOFError, ValueError) as error:
            raise ClientError(f"cannot decompress {self._name}: {error}") from error

    def _decompress(self, make: Callable[[], Any], size: int) -> bytes:
        while True:
            if self._stream is None:
                self._rest = self._rest or self._take(size)
                if not self._rest:
                    return b""
                self._stream = make()
            if not self._rest and self._stream.needs_input and not (more := self._take(size)):
                raise EOFError("it ends in the middle")
            elif not self._rest and self._stream.needs_input:
                self._rest = more
            given, self._rest = self._rest, b""
            data: bytes = self._stream.decompress(given, size)
            if self._stream.eof:  # another one may follow
                self._rest, self._stream = self._stream.unused_data, None
            if data:
                return data

    def _decode(self, data: bytes, size: int) -> bytes:
        assert self._decoder is not None
        while True:
            text = self._decoder.decode(data, final=not data)
            if text or not data:
                return text.encode("utf-8", "surrogatepass")
            data = self._unpack(size)


def _expand(paths: Sequence[str]) -> list[str]:
    found: list[str] = []
    for path in paths:
        if path != "-" and os.path.isdir(path):
            inside = sorted(os.path.join(path, name) for name in os.listdir(path) if not name.startswith("."))
            found += [each for each in inside if os.path.isfile(each)]
        else:
            found.append(path)
    return found


def _open(path: str) -> ThreadedReader:
    # Not O_NONBLOCK: a FIFO without a writer is waited for, as any other command does.
    return ThreadedReader(0 if path == "-" else os.open(path, os.O_RDONLY | os.O_CLOEXEC))
