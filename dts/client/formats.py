"""Rows that are not JSON: plain text by a template, and tables of columns."""

from __future__ import annotations

import csv
import io
import string
from collections.abc import Iterable
from typing import Any

import msgspec

from dts.client.rows import CUSTOM_ID, FIELDS, Results, RowFormat, Rows
from dts.client.run.ledger_state import Held
from dts.errors import InvalidInput

_COLUMNS = ("line", "success", "result", "error", "duration")
_decode = msgspec.json.Decoder(dict[str, Any]).decode_lines


class _DecodedFormat(RowFormat):
    """A format that is made of the fields of each row."""

    def row(self, fields: dict[str, Any]) -> bytes:
        """The row of one line."""
        raise NotImplementedError

    def rows(self, results: Results) -> list[Held]:
        """The row of each result, with its line and whether it failed."""
        rows = super().format(results)
        decoded = _decode(rows.succeeded + rows.failed)
        return [(fields["line"], not fields["success"], self.row(fields)) for fields in decoded]

    def format(self, results: Results) -> Rows:
        """The rows of some results."""
        rows = self.rows(results)
        return Rows(
            b"".join(row for _, failed, row in rows if not failed), b"".join(row for _, failed, row in rows if failed)
        )


class TemplateFormat(_DecodedFormat):
    """A line of text for each row, such as `{line}: {result}`; of a failed one `{result}` is empty.

    Raises:
        InvalidInput: the template is not one, or names a field that there is not.
    """

    def __init__(self, template: str, *, id_field: str = "") -> None:
        self._template = template
        try:
            parts = [name for _, name, _, _ in string.Formatter().parse(template) if name]
        except ValueError as error:
            raise InvalidInput(f"{template!r} is not a format: {error}") from error
        names = {name.partition(".")[0].partition("[")[0] for name in parts}
        known = {*_COLUMNS, *FIELDS, CUSTOM_ID}
        if unknown := sorted(names - known):
            raise InvalidInput(f"there is no field {unknown[0]!r}: choose from {', '.join(sorted(known))}")
        super().__init__((name for name in FIELDS if name in names), id_field=id_field)
        self._names = [*_COLUMNS, *dict.fromkeys((*self.fields, CUSTOM_ID))]

    def row(self, fields: dict[str, Any]) -> bytes:
        """The line of text."""
        try:
            text = self._template.format_map({name: _text(fields.get(name)) for name in self._names})
        except (ValueError, LookupError, AttributeError) as error:
            raise InvalidInput(f"{self._template!r} cannot be filled in: {error}") from error
        return text.encode() + b"\n"


class TableFormat(_DecodedFormat):
    """Columns separated by `delimiter`, with a row of their names first."""

    def __init__(self, fields: Iterable[str] = (), *, delimiter: str = ",", id_field: str = "") -> None:
        super().__init__(fields, id_field=id_field)
        self._buffer = io.StringIO()
        self._writer = csv.writer(self._buffer, delimiter=delimiter, lineterminator="\n")
        self.header = self._line([*_COLUMNS, *self.fields])

    def row(self, fields: dict[str, Any]) -> bytes:
        """The columns of a row: what is no text is JSON."""
        return self._line([_text(fields.get(name)) for name in (*_COLUMNS, *self.fields)])

    def _line(self, columns: list[str]) -> bytes:
        self._buffer.seek(0)
        self._buffer.truncate()
        self._writer.writerow(columns)
        return self._buffer.getvalue().encode()


def _text(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    if isinstance(value, dict) and value.keys() >= {"type", "message", "traceback"}:  # an error
        return f"{value['type']}: {value['message']}"
    return msgspec.json.encode(value).decode()
