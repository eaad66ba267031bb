"""Rows of the output, one JSON object a line, built for many results at once.

    {"line": 17, "success": true, "result": "ABC", "duration": 0.000400}
    {"line": 18, "success": false, "error": {"type": "…", "message": "…", "traceback": "…"}, "duration": 0.000400}

A result's JSON is passed through as the worker wrote it. Rows of one part are formatted in one operation, which
measures at half a microsecond a row.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import NamedTuple

import msgspec

from dts.client.run.blocks import SentBlock
from dts.client.run.ledger_state import Held
from dts.errors import InvalidInput
from dts.model import job_id
from dts.wire import dts_pb2

_encode = msgspec.json.Encoder().encode
_decode_arguments = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


@dataclass(frozen=True, slots=True)
class Results:
    """Results that came together, from one attempt at a slice of one block. Each is for a line of its own.

    `durations` is how many seconds each of those that succeeded took; `size` about how many bytes all are.
    """

    run: str
    block: SentBlock
    batch: dts_pb2.ResultBatch
    succeeded: list[dts_pb2.Result]
    failed: list[dts_pb2.Result]
    durations: list[float]
    size: int = 0

    @classmethod
    def split(
        cls,
        run: str,
        block: SentBlock,
        batch: dts_pb2.ResultBatch,
        results: Sequence[dts_pb2.Result],
        *,
        size: int = 0,
    ) -> Results:
        """Sort results into those of jobs that succeeded and the others (failed or cancelled)."""
        succeeded = [each for each in results if each.status == dts_pb2.SUCCEEDED]
        failed = (
            [each for each in results if each.status != dts_pb2.SUCCEEDED] if len(succeeded) != len(results) else []
        )
        return cls(run, block, batch, succeeded, failed, [each.duration for each in succeeded], size)

    def line(self, result: dts_pb2.Result) -> int:
        """The number of the result's line, from 1."""
        lines = self.block.lines
        return self.block.first_line + result.index if lines is None else lines[result.index]

    def lines(self) -> list[int]:
        """The number of each line that succeeded."""
        return [self.line(each) for each in self.succeeded]


def pieces(results: Iterable[Results], size: int) -> Iterator[Results]:
    """The same results, those that are more than `size` bytes cut: each piece reaches `size` by its last result."""
    for each in results:
        if each.size <= size:
            yield each
            continue
        begun: list[dts_pb2.Result] = []
        held = 0
        for result in chain(each.succeeded, each.failed):
            begun.append(result)
            held += len(result.value) + len(result.error.message) + len(result.error.traceback)
            if held >= size:
                yield Results.split(each.run, each.block, each.batch, begun, size=held)
                begun, held = [], 0
        if begun:
            yield Results.split(each.run, each.block, each.batch, begun, size=held)


class Rows(NamedTuple):
    """Formatted rows, with a newline each: those of jobs that succeeded, and of the others."""

    succeeded: bytes
    failed: bytes


Extra = Callable[[Results, dts_pb2.Result], object]


def _id(results: Results, result: dts_pb2.Result) -> bytes:
    if results.block.number is None:
        return b"null"
    return _encode(job_id(results.run, results.block.first_job + result.index))


def _args(results: Results, result: dts_pb2.Result) -> bytes:
    args = results.block.args
    return args[result.index] or b"[]" if args else b"[]"


def _kwargs(results: Results, result: dts_pb2.Result) -> bytes:
    kwargs = results.block.kwargs
    return kwargs[result.index] or b"{}" if kwargs else b"{}"


def _argument(results: Results, result: dts_pb2.Result, name: str) -> bytes:
    """A keyword argument, as it is in the input; null if the line has none of that name."""
    return bytes(_decode_arguments(_kwargs(results, result)).get(name, b"null"))


_EXTRAS: dict[str, tuple[bytes, Extra]] = {
    "id": (b"%b", _id),
    "args": (b"%b", _args),
    "kwargs": (b"%b", _kwargs),
    "attempt": (b"%d", lambda _, result: result.attempt or 1),
    "worker": (b"%b", lambda results, _: _encode(results.batch.worker)),
    "version": (b"%b", lambda results, _: _encode(results.batch.version)),
    "started": (b"%.6f", lambda results, result: results.batch.started + result.offset),
}

FIELDS = tuple(_EXTRAS)
"""What a row can have beside line, success, result or error, and duration."""

CUSTOM_ID = "custom_id"
"""What the input itself calls a line: the field of a row that `--id-field` adds."""

KEPT_FIELDS = frozenset({"args", "kwargs", CUSTOM_ID})
"""Fields that need the arguments to be remembered until the result comes."""

_SUCCEEDED = b'{"line": %d, "success": true, "result": %b, "duration": %.6f'
_FAILED = b'{"line": %d, "success": false, "error": %b, "duration": %.6f'


class RowFormat:
    """How rows look: the usual fields and those named in `fields`. `header` comes before the first.

    With `id_field` the keyword argument of that name is in each row, as its custom_id.

    Raises:
        InvalidInput: there is no such field.
    """

    header = b""

    def __init__(self, fields: Iterable[str] = (), *, id_field: str = "") -> None:
        self.fields = tuple(dict.fromkeys(fields))
        for name in self.fields:
            if name not in _EXTRAS:
                raise InvalidInput(f"there is no field {name!r}: choose from {', '.join(FIELDS)}")
        self._extras = [_EXTRAS[name][1] for name in self.fields]
        end = b"".join(b', "%b": %b' % (name.encode(), _EXTRAS[name][0]) for name in self.fields)
        if id_field:
            self.fields = (*self.fields, CUSTOM_ID)
            self._extras.append(lambda results, result: _argument(results, result, id_field))
            end += b', "custom_id": %b'
        end += b"}\n"
        self._succeeded = _SUCCEEDED + end
        self._failed = _FAILED + end

    def format(self, results: Results) -> Rows:
        """The rows of some results."""
        rows = self._format(self._succeeded, results, results.succeeded, _value)
        if rows.count(b"\n") != len(results.succeeded):
            rows = self._format(self._succeeded, results, results.succeeded, _value_on_one_line)
        return Rows(rows, self._format(self._failed, results, results.failed, _error))

    def rows(self, results: Results) -> list[Held]:
        """The row of each result, with its line and whether it failed."""
        rows = self.format(results)
        both = [(rows.succeeded, results.succeeded, False), (rows.failed, results.failed, True)]
        return [
            (results.line(result), failed, row + b"\n")
            for joined, chosen, failed in both
            for result, row in zip(chosen, joined.split(b"\n")[:-1], strict=True)
        ]

    def _format(
        self,
        template: bytes,
        results: Results,
        chosen: list[dts_pb2.Result],
        content: Callable[[dts_pb2.Result], bytes],
    ) -> bytes:
        first = results.block.first_line
        values: list[object] = []
        if self._extras or results.block.lines is not None:
            for each in chosen:
                values += (results.line(each), content(each), each.duration)
                values += [extra(results, each) for extra in self._extras]
        elif content is _value:  # nearly all rows: no call for each of them
            values = [None] * (3 * len(chosen))
            values[0::3] = [first + each.index for each in chosen]
            values[1::3] = [each.value or b"null" for each in chosen]
            values[2::3] = results.durations
        else:
            for each in chosen:
                values += (first + each.index, content(each), each.duration)
        return (template * len(chosen)) % tuple(values)


def _value(result: dts_pb2.Result) -> bytes:
    return result.value or b"null"


def _value_on_one_line(result: dts_pb2.Result) -> bytes:
    """A value whose JSON was spread over lines: a newline can only be where a space can."""
    return (result.value or b"null").replace(b"\n", b" ")


def _error(result: dts_pb2.Result) -> bytes:
    error = result.error
    row = b'{"type": %b, "message": %b, "traceback": %b' % (
        _encode(error.type or "Error"),
        _encode(error.message),
        _encode(error.traceback),
    )
    return row + (b', "reason": %b}' % _encode(error.reason) if error.reason else b"}")


def bad_lines(run: str, bad: Sequence[tuple[int, str]]) -> Results:
    """Results for lines that became no jobs: failed, with the reason as a ComponentError."""
    batch = dts_pb2.ResultBatch()
    for index, (_, reason) in enumerate(bad):
        batch.results.add(
            index=index, status=dts_pb2.FAILED, error=dts_pb2.Error(type="ComponentError", message=reason)
        )
    lines = array("Q", [line for line, _ in bad])
    block = SentBlock(None, 0, len(bad), lines[0], lines=lines)
    return Results(run, block, batch, [], list(batch.results), [])
