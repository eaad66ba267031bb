"""Where the arguments of jobs come from: files read as text, words or JSON, and iterables.

A component gives its lines in batches, so nothing is done per line that can be done for many at once. A line that
cannot be read does not end the run: it is given as bad, with the reason, and becomes a failed row.

Every input line is one line of the output, blank ones included. A line ends with `\\n` or `\\r\\n`; the last one need
not. A byte order mark at the start of a file is not part of its first line.
"""

from __future__ import annotations

import os
import re
import stat
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, AsyncIterable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, NamedTuple, Protocol, runtime_checkable

import msgspec

from dts.client.input.readers import FilesReader
from dts.client.jsonvalue import MAX_NESTING, encode_args, encode_kwargs, lone_surrogate
from dts.client.threads import in_thread
from dts.errors import ClientError, ComponentError, InvalidInput

STANDARD_STREAM = "-"
CHUNK_SIZE = 128 * 1024  # bytes of one read; larger ones gain nothing and hold more lines in memory at once
_ITEMS = 512  # items taken from an iterable at once
_BOM = b"\xef\xbb\xbf"
_SURROGATE = re.compile(rb"\xed[\xa0-\xbf][\x80-\xbf]")
_encoder = msgspec.json.Encoder()
_decode = msgspec.json.Decoder().decode


@dataclass(frozen=True, slots=True)
class Batch:
    """Consecutive lines of an input as jobs' arguments in JSON: `args` an array each, `kwargs` an object each.

    Empty bytes stand for [] and {}; `kwargs` is None when no line has any. `bad` has the positions of lines that
    could not be read with the reason; what args and kwargs have there is not used.
    """

    args: list[bytes]
    kwargs: list[bytes] | None = None
    bad: dict[int, str] = field(default_factory=dict)


@runtime_checkable
class DataSource(Protocol):
    """What DtsClient reads arguments from."""

    @property
    def bytes_read(self) -> int:
        """How many bytes were read so far."""
        ...

    @property
    def bytes_total(self) -> int | None:
        """How many there are; None when that is not known."""
        ...

    def batches(self, max_line: int) -> AsyncGenerator[Batch, None]:
        """All lines, in order; a line of more than `max_line` bytes is bad and never held in memory as a whole."""
        ...


class Call(NamedTuple):
    """One job's arguments, for iterables whose items are more than a single positional argument."""

    args: Iterable[Any] = ()
    kwargs: dict[str, Any] = {}  # noqa: RUF012 - never written to


class FileComponent(ABC):
    """Reads a file, or standard input when `path` is `-`, a chunk at a time and in a thread.

    What is compressed (gzip, bzip2, xz, zstd), or in UTF-16, is known by its first bytes. A directory stands for its
    files by name; `more` are files to be read after it. Lines end with `separator`. `start` bytes are passed over.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        more: Sequence[str] = (),
        separator: bytes = b"\n",
        start: int = 0,
    ) -> None:
        self.path = os.fspath(path)
        self.bytes_read = 0
        self.bytes_total: int | None = None
        self._more = list(more)
        self._start = start
        self._separator = separator
        self.how: dict[str, Any] = {"more": more, "separator": separator, "start": start}
        self._file: FilesReader | None = None

    @property
    def name(self) -> str:
        """The file's name for a person to read."""
        return "standard input" if self.path == STANDARD_STREAM else self.path

    @property
    def identity(self) -> tuple[int, int] | None:
        """What tells the open file from others, whatever its name; None when it is not a regular file."""
        return None if self._file is None else file_identity(self._file.first)

    @property
    def identities(self) -> list[tuple[int, int] | None]:
        """The same of each of the files."""
        return [] if self._file is None else [file_identity(each) for each in self._file.descriptors]

    def open(self) -> None:
        """Open the file, so that one that cannot be read is known before anything is sent.

        Raises:
            ClientError: it is missing, a directory or not readable.
        """
        if self._file is not None:
            return
        try:
            file = FilesReader([self.path, *self._more], separator=self._separator, start=self._start)
        except OSError as error:
            raise ClientError(f"cannot read {error.filename or self.name}: {error.strerror}") from error
        if not file.descriptors:
            raise ClientError(f"cannot read {self.name}: there is no file in the directory")
        self._file = file
        self.bytes_total = file.size

    def close(self) -> None:
        """Close the file; standard input stays open."""
        if self._file is not None:
            self._file.close()
        self._file = None

    async def batches(self, max_line: int) -> AsyncGenerator[Batch, None]:
        """All lines of the file.

        Raises:
            ClientError: the file cannot be read (on).
        """
        self.open()
        try:
            lines = LineAssembler(max_line, self._separator)
            while data := await self._read():
                for piece in lines.feed(data):
                    yield self._batch(piece, max_line)
            for piece in lines.finish():
                yield self._batch(piece, max_line)
        finally:
            self.close()

    async def _read(self) -> bytes:
        assert self._file is not None
        file = self._file
        try:
            data = await in_thread(lambda: file.read(CHUNK_SIZE))
        except OSError as error:
            raise ClientError(f"cannot read {self.name}: {error.strerror}") from error
        self.bytes_read = file.position
        return data

    def _batch(self, piece: bytes | None, max_line: int) -> Batch:
        if piece is None:
            return Batch([b""], bad={0: f"the line is over the limit of {max_line} bytes"})
        lines = piece.split(self._separator)
        if not lines[-1]:
            lines.pop()
        return self.parse(piece, lines)

    @abstractmethod
    def parse(self, data: bytes, lines: list[bytes]) -> Batch:
        """The batch of some lines; `data` is all of them, with the newlines, `lines` each without its newline."""


class _DecodingComponent(FileComponent):
    """Reads lines that are text in UTF-8; one that is not is bad."""

    def parse(self, data: bytes, lines: list[bytes]) -> Batch:
        try:
            text = data.decode()
        except UnicodeDecodeError:
            if self._separator == b"\n":
                lines = data.replace(b"\r\n", b"\n").split(b"\n")[: len(lines)]
            return self._parse_each(lines)
        if self._separator != b"\n":
            return Batch(self.encode(text.removesuffix("\0").split("\0")))
        decoded = (text.replace("\r\n", "\n") if "\r" in text else text).split("\n")
        if not decoded[-1]:
            decoded.pop()
        return Batch(self.encode(decoded))

    def _parse_each(self, lines: list[bytes]) -> Batch:
        decoded: list[str] = []
        bad: dict[int, str] = {}
        for position, line in enumerate(lines):
            try:
                decoded.append(line.decode())
            except UnicodeDecodeError as error:
                bad[position] = f"the line {unreadable(line, error)}"
                decoded.append("")
        return Batch(self.encode(decoded), bad=bad)

    @abstractmethod
    def encode(self, lines: list[str]) -> list[bytes]:
        """The JSON arrays of arguments of some lines."""


class TextFileIOComponent(_DecodingComponent):
    """A line is one argument: a string, without its newline. A blank line is an empty string."""

    def encode(self, lines: list[str]) -> list[bytes]:
        return _encode_each(list(zip(lines, strict=True)))


class WordFileIOComponent(_DecodingComponent):
    """A line's words, separated by white space, are the arguments. A blank line is a call without any."""

    def encode(self, lines: list[str]) -> list[bytes]:
        return _encode_each([line.split() for line in lines])


class JsonFileIOComponent(FileComponent):
    """A line is JSON: an object is keyword arguments, an array is arguments; anything else is bad, a blank line too."""

    def parse(self, data: bytes, lines: list[bytes]) -> Batch:
        args = [b""] * len(lines)
        kwargs = [b""] * len(lines)
        bad: dict[int, str] = {}
        for position, line in enumerate(lines):
            try:
                value = _parse_json(line)
            except ComponentError as error:
                bad[position] = error.message
            else:
                (args if isinstance(value, list) else kwargs)[position] = line.strip()
        return Batch(args, kwargs, bad)


class IterableComponent:
    """The items of an iterable: a `Call`'s arguments, anything else is one positional argument.

    An item that is not a JSON value (NaN, a set, bytes, a dict whose keys are no strings, …) is a bad line.

    A plain iterable is read within the event loop and should not block; an asynchronous one may wait.
    """

    def __init__(self, items: Iterable[Any] | AsyncIterable[Any]) -> None:
        self.bytes_read = 0
        self.bytes_total: int | None = None
        self._items = items

    async def batches(self, max_line: int) -> AsyncGenerator[Batch, None]:
        """All items. `max_line` is not looked at: they are in memory already."""
        if isinstance(self._items, AsyncIterable):
            async for item in self._items:
                yield _batch_of_items([item])
            return
        iterator = iter(self._items)
        while items := list(islice(iterator, _ITEMS)):
            yield _batch_of_items(items)


class LineAssembler:
    """Cuts chunks of bytes at the ends of lines. `None` stands for a line of more than `max_line` bytes.

    Lines that came whole within one chunk are not measured. They end with `separator`.
    """

    def __init__(self, max_line: int, separator: bytes = b"\n") -> None:
        self._max_line = max_line
        self._separator = separator
        self._held: list[bytes] = []
        self._size = 0
        self._skipping = False
        self._begun = False

    def feed(self, data: bytes) -> Iterator[bytes | None]:
        """The complete lines that `data` brings, as one piece with their newlines."""
        if self._skipping:
            newline = data.find(self._separator)
            if newline < 0:
                return
            data = data[newline + 1 :]
            self._skipping = False
        cut = data.rfind(self._separator) + 1
        if cut:
            yield from self._piece(data[:cut])
        if cut < len(data):
            self._held.append(data[cut:])
            self._size += len(data) - cut
        if self._size > self._max_line:
            self._held.clear()
            self._size = 0
            self._skipping = True
            self._begun = True
            yield None

    def finish(self) -> Iterator[bytes | None]:
        """The last line when it has no newline."""
        if self._held:
            yield from self._piece(b"")

    def _piece(self, end: bytes) -> Iterator[bytes]:
        piece = b"".join((*self._held, end)) if self._held else end
        self._held.clear()
        self._size = 0
        if not self._begun:
            self._begun = True
            piece = piece.removeprefix(_BOM)
        if piece:
            yield piece


def unreadable(text: bytes, error: UnicodeDecodeError) -> str:
    """Why a text could not be decoded, to follow what it is the text of."""
    if _SURROGATE.match(text, error.start):  # in UTF-16, it stands for any bytes that are no character
        return "has bytes that are no character, or a lone surrogate"
    return f"is not valid UTF-8: byte {error.start + 1} of it"


def file_identity(descriptor: int) -> tuple[int, int] | None:
    """Device and inode of an open regular file; None for anything else."""
    if descriptor < 0:
        return None
    status = os.fstat(descriptor)
    return (status.st_dev, status.st_ino) if stat.S_ISREG(status.st_mode) else None


def _encode_each(calls: list[Any]) -> list[bytes]:
    """The JSON of each of `calls`; one call into C for all of them, JSON having no newlines of its own."""
    encoded = _encoder.encode_lines(calls).split(b"\n")
    encoded.pop()
    return encoded


def _parse_json(line: bytes) -> list[Any] | dict[str, Any]:
    try:
        value = _decode(line)
    except RecursionError as error:
        raise ComponentError("the line's JSON is nested too deeply") from error
    except (msgspec.MsgspecError, UnicodeDecodeError, ValueError) as error:
        if not line.strip():
            raise ComponentError("the line is blank: write a JSON object or array") from error
        if found := lone_surrogate(line):
            raise ComponentError(f"the line's JSON has the lone surrogate {found}, which is no character") from error
        raise ComponentError(f"the line is not valid JSON: {error}") from error
    if not isinstance(value, (list, dict)):
        raise ComponentError("the line's JSON is neither an object (keyword arguments) nor an array (arguments)")
    if line.count(b"[") + line.count(b"{") > MAX_NESTING and _depth(value) > MAX_NESTING:
        raise ComponentError(f"the line's JSON is nested more than {MAX_NESTING} deep")
    return value


def _depth(value: Any) -> int:
    depth = 0
    level = [value]
    while level:
        depth += 1
        inner = [each.values() if isinstance(each, dict) else each for each in level]
        level = [item for items in inner for item in items if isinstance(item, (list, dict))]
    return depth


def _batch_of_items(items: list[Any]) -> Batch:
    args: list[bytes] = []
    kwargs: list[bytes] = []
    bad: dict[int, str] = {}
    for position, item in enumerate(items):
        call = item if isinstance(item, Call) else Call((item,))
        try:
            args.append(encode_args(list(call.args)))
            kwargs.append(encode_kwargs(call.kwargs) if call.kwargs else b"")
        except (InvalidInput, TypeError) as error:
            bad[position] = str(error)
            del args[position:], kwargs[position:]
            args.append(b"")
            kwargs.append(b"")
    return Batch(args, kwargs if any(kwargs) else None, bad)
