"""What a command shows: tables and sentences for people, one JSON object a line for scripts."""

from __future__ import annotations

import asyncio
import io
import sys
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import msgspec
from rich import box
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from dts.client.stdio import forsake, tell
from dts.errors import ClientError
from dts.management.api.resources import Record
from dts.management.utils import format_time, printable
from dts.model.units import show_bytes, show_seconds

SHOWN_ROWS = 100
"""Rows of a table, unless told otherwise; scripts get all."""

_ENDLESS = 100_000  # columns of a table that is not shown on a terminal: nothing is cut off
_USUAL = 80  # columns
_NARROW = 40  # columns, below which there is no room for a table
_LEAST_TEXT = 12  # characters of a text in a column, which goes on in further lines of the row
_LEAST_COLUMNS = 3  # below which a table says less than a field a line
_GAP = 2  # characters between columns
_SILENCE = 2.0  # seconds that a person sits before a still terminal
_MAX_CELL = 300  # characters of one cell; `get ID` and --json show the whole


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table: a field of the rows, its heading, how a value is written, and in how many characters.

    `id` says that its values are ids, as that of the field `id` are: they are typed and copied, so they are never cut.
    """

    field: str
    heading: str = ""
    show: Callable[[Any], str] | None = None
    right: bool = False
    most: int = _MAX_CELL
    id: bool = False

    @property
    def whole(self) -> bool:
        """Whether its values are shown on one line, in whole."""
        return self.id or self.right or self.field == "id" or self.field in _TIMES

    @property
    def title(self) -> str:
        """What stands above it."""
        return self.heading or self.field.replace("_", " ")

    def cell(self, row: Mapping[str, Any]) -> Text:
        """What the column shows of a row."""
        value = row.get(self.field)
        text = as_text(self.field, value) if self.show is None or value is None else self.show(value)
        return Text(text if len(text) <= self.most else text[: self.most] + "…")


class Output:
    """Shows results of one command. `as_json` is for scripts."""

    def __init__(self, *, as_json: bool = False) -> None:
        self.as_json = as_json

    def say(self, sentence: str) -> None:
        """Tell a person what was done; a script sees the record instead."""
        if not self.as_json:
            _show(Text(printable(sentence)))

    def text(self, text: str) -> None:
        """Show a text as it is, such as help."""
        _show(Text(text), soft_wrap=True)

    def record(self, record: object, *, fields: Sequence[str] = ()) -> None:
        """One record, a field a line; or only some of its fields."""
        if isinstance(record, Mapping) and fields:
            record = {name: record.get(name) for name in fields}
        if self.as_json or not isinstance(record, Mapping):
            self._json(record)
            return
        fields_of = sorted(record.items(), key=lambda item: item[0] != "id")
        if _width() < _NARROW:
            _show_fields([[(name, Text(as_text(name, value))) for name, value in fields_of]])
            return
        table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
        table.add_column(style="bold", no_wrap=True)
        table.add_column(overflow="fold")
        for name, value in fields_of:
            table.add_row(Text(name), Text(as_text(name, value)))
        _show(table)

    async def rows(
        self, pages: AsyncIterator[list[Record]], columns: Sequence[Column], *, limit: int | None, what: str
    ) -> int:
        """A list: all its columns as a table, its whole rows as JSON. Returns how many rows there were.

        `limit` is how many rows at most were asked for; a table says when there may be more.
        """
        count = 0
        if self.as_json:
            async for page in pages:
                count += len(page)
                if not all(self._json(row) for row in page):  # nobody reads what would come
                    break
            return count
        rows: list[list[Text]] = []
        async for page in pages:
            count += len(page)
            rows += [[column.cell(row) for column in columns] for row in page]
        if count:
            _show_rows(rows, columns)
        else:
            self.say(f"no {what}")
        if limit is not None and 0 < limit == count:
            note(f"the first {count} {what}; more with --limit N")
        return count

    def table(self, rows: Sequence[Record], columns: Sequence[Column]) -> None:
        """Rows that are there already."""
        if self.as_json:
            for row in rows:
                self._json(row)
            return
        _show_rows([[column.cell(row) for column in columns] for row in rows], columns)

    def _json(self, value: object) -> bool:
        return _write(msgspec.json.encode(value).decode() + "\n")


def limit_of(number: int | None, *, as_json: bool) -> int | None:
    """How many rows to ask for: as told (0 is all), else all for a script and a screenful for a person."""
    if number is None:
        return None if as_json else SHOWN_ROWS
    return number or None


def new_table(columns: Sequence[Column]) -> Table:
    """An empty table."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for column in columns:
        justify: Literal["left", "right"] = "right" if column.right else "left"
        table.add_column(column.title, justify=justify, overflow="fold", no_wrap=column.whole)
    return table


def note(sentence: str) -> None:
    """Tell on stderr what is neither data nor an error."""
    tell(printable(sentence))


@contextmanager
def patience(sentence: str) -> Iterator[None]:
    """Around work in an event loop that may take long: tells a person at a terminal what is going on if it does."""
    present = sys.stderr is not None and sys.stderr.isatty()
    telling = asyncio.get_running_loop().call_later(_SILENCE, note, sentence) if present else None
    try:
        yield
    finally:
        if telling is not None:
            telling.cancel()


def complain(sentence: str) -> None:
    """Tell on stderr what went wrong."""
    note(f"dts-admin: {sentence}")


_TIMES = frozenset(
    {"created", "modified", "timestamp", "started", "died", "secret_expires", "time", "since", "starts", "ends"}
)


_UNITS: dict[str, Callable[[float], str]] = {
    **dict.fromkeys(("duration", "mean_duration", "timeout", "soft_timeout", "retention", "age"), show_seconds),
    **dict.fromkeys(("memory_limit", "size"), show_bytes),
}
"""Fields that are shown with a unit."""


def as_text(name: str, value: object) -> str:
    """A value as a person reads it; safe to show on a terminal."""
    if value is None or isinstance(value, bool):
        return {None: "–", True: "yes", False: "no"}[value]
    if name in _TIMES and isinstance(value, (int, float)):
        return format_time(value)
    if isinstance(value, (int, float)) and name in _UNITS:
        return _UNITS[name](value)
    if isinstance(value, str):
        return printable(value)
    return printable(_listed(value))


def _listed(value: object) -> str:
    """Lists by commas and objects as in a command; as JSON what is neither."""
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return ", ".join(value)
    if isinstance(value, Mapping):
        return " ".join(f"{key}={_bare(item)}" for key, item in value.items())
    return msgspec.json.encode(value).decode()


def changes_in_words(ops: Mapping[str, object]) -> str:
    """What an entry of the operation log has of a change: `limits.unfinished=3`, `roles: user → developer`.

    Nothing is said of a field that was made empty to begin with.
    """
    return printable(", ".join(filter(None, (_change(name, value) for name, value in ops.items()))))


def _change(name: str, value: object) -> str:
    if isinstance(value, Mapping) and "from" in value and value.keys() <= {"from", "to"}:
        before, after = value["from"], value.get("to")
        if "to" not in value:
            return f"{name} was {_plain(before)}"
        if isinstance(before, Mapping) and isinstance(after, Mapping):  # such as limits: only those that differ
            parts = [part for part in {**before, **after} if before.get(part) != after.get(part)]
            return ", ".join(_step(f"{name}.{part}", before.get(part), after.get(part)) for part in parts)
        return _step(name, before, after)
    if isinstance(value, Mapping):
        return ", ".join(f"{name}.{part}={_plain(item)}" for part, item in value.items())
    return "" if value in (None, "", []) or name == "id" else f"{name}={_plain(value)}"


def _step(name: str, before: object, after: object) -> str:
    return f"{name}: {_plain(before)} → {_plain(after)}"


def _plain(value: object) -> str:
    """A value of a change; a dash for none."""
    if value in (None, "", [], {}):
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return (
        " ".join(f"{part}={_bare(item)}" for part, item in value.items()) if isinstance(value, dict) else _bare(value)
    )


def _bare(value: object) -> str:
    """A value after its name, as in a command."""
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return ",".join(value)
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()


def _show_rows(rows: Sequence[Sequence[Text]], columns: Sequence[Column]) -> None:
    """Rows as a table; a field a line where there is no room for one.

    Ids and times are never cut. Where there is no room for all columns, the last ones are left out, and named.
    """
    width = _width()
    kept = _columns_that_fit(rows, columns, width)
    if width < _NARROW or kept < min(_LEAST_COLUMNS, len(columns)):
        _show_fields([[(column.title, cell) for column, cell in zip(columns, row, strict=True)] for row in rows])
        return
    table = new_table(columns[:kept])
    for row in rows:
        table.add_row(*row[:kept])
    _show(table)
    if kept < len(columns):
        left_out = ", ".join(column.title for column in columns[kept:])
        note(f"no room for {left_out}: a wider terminal shows them, so does --json")


def _columns_that_fit(rows: Sequence[Sequence[Text]], columns: Sequence[Column], width: int) -> int:
    """How many columns go on a line, each as wide as it must be: ids, times and numbers whole, others in some width."""
    used = -_GAP
    for place, column in enumerate(columns):
        natural = max([len(column.title), *(row[place].cell_len for row in rows)])
        used += _GAP + (natural if column.whole else min(natural, _LEAST_TEXT))
        if used > width:
            return place
    return len(columns)


def _show_fields(rows: Sequence[Sequence[tuple[str, Text]]]) -> None:
    """Rows with an empty line between them, each a field a line; the terminal breaks what is longer."""
    blocks = ["\n".join(f"{name}: {cell.plain}" for name, cell in row) for row in rows]
    _show(Text("\n\n".join(blocks)), soft_wrap=True)


def _width() -> int:
    """How many characters go on a line of stdout; that of a terminal of no width is what a usual one has."""
    return (Console().width or _USUAL) if sys.stdout.isatty() else _ENDLESS


def _show(what: RenderableType, *, soft_wrap: bool = False) -> None:
    """Show something as wide as the terminal is that stdout is now."""
    terminal, width = sys.stdout.isatty(), _width()
    written = _Written()  # by itself a console ends the process, within a task, when the reader of stdout has gone
    console = Console(file=written, force_terminal=terminal, width=width, highlight=False, markup=False, emoji=False)
    console.print(what, soft_wrap=soft_wrap)
    _write(written.getvalue())


class _Written(io.StringIO):
    """Text for stdout, drawn with characters that it has."""

    @property
    def encoding(self) -> str:  # type: ignore[override]  # the base has none
        return sys.stdout.encoding or "utf-8"


def _write(text: str) -> bool:
    """Write to stdout; whether somebody still reads it. A command goes on to its end and its exit status without.

    Raises:
        ClientError: it cannot be written, such as when the disk is full.
    """
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except BrokenPipeError:
        forsake(sys.stdout)
        return False
    except OSError as error:
        forsake(sys.stdout)
        raise ClientError(f"cannot write standard output: {error.strerror}") from error
    return True


def describe_login(user: Record, url: str) -> str:
    """A sentence on who is signed in where."""
    return f"signed in as {user['id']} ({as_text('roles', user['roles'])}) at {url}"
