"""What a command may be told as FIELD=VALUE: names, types, and how a value is read from text."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from functools import partial
from pathlib import Path

import msgspec

from dts.errors import ConfigError, InvalidInput
from dts.management.utils import nearest
from dts.model.units import BYTES_HINT, SECONDS_HINT, parse_bytes, parse_seconds


class Wish(Enum):
    """A secret that is not known yet: the shell is to make it up, or to ask for it."""

    GENERATE = "generate"
    ASK = ""


_TRUE = frozenset({"true", "yes", "on", "1"})
_FALSE = frozenset({"false", "no", "off", "0"})
_NONE = frozenset({"none", "null"})


class Kind(Enum):
    """The type of a field, with the words for it in a help text."""

    TEXT = "text"
    INTEGER = "whole number"
    NUMBER = "number"
    SECONDS = SECONDS_HINT
    BYTES = BYTES_HINT
    BOOLEAN = "yes or no"
    LIST = "a,b,…"
    OBJECT = "JSON object"
    ARRAY = "JSON array"
    TIME = "date and time, or seconds since the epoch"
    SECRET = "generate or @FILE"
    FILE = "@FILE"
    LINES = "FILE"


@dataclass(frozen=True, slots=True)
class Field:
    """One field. `optional` says that `none` takes the value away. `ids` names the kind of thing whose ids it takes,
    for completion. `also` is another name for it.
    """

    name: str
    kind: Kind
    help: str
    choices: tuple[str, ...] = ()
    optional: bool = False
    initial: bool = True
    updatable: bool = True
    ids: str = ""
    also: str = ""

    @property
    def hint(self) -> str:
        """What kind of value it takes, for a help text."""
        kind = ", ".join(self.choices) if self.choices else self.kind.value
        return f"{kind}, or none" if self.optional else kind


def find_field(name: str, fields: Iterable[Field]) -> Field:
    """The field of that name.

    Raises:
        InvalidInput: there is none; suggests the nearest.
    """
    fields = list(fields)
    known = {field.name: field for field in fields}
    if (field := next((field for field in fields if field.also == name and name), None)) is not None:
        return field
    if name in known:
        return known[name]
    if not known:
        raise InvalidInput(f"this command takes no FIELD=VALUE, but got {name}=…")
    guess = nearest(name, known)
    raise InvalidInput(f"there is no field {name}{guess or ': there are ' + ', '.join(known)}")


def parse_value(field: Field, text: str) -> object:
    """The value that `text` spells for a field; a SECRET is a Wish or what is in the file.

    Raises:
        InvalidInput: it spells none. The message never shows the text of a secret.
        ConfigError: the file that it names cannot be read.
    """
    if field.optional and text.lower() in _NONE:
        return None
    value = _PARSERS[field.kind](field, text)
    for item in value if isinstance(value, list) else [value]:
        if field.choices and item not in field.choices:
            raise _wrong(field, str(item), nearest(str(item), field.choices))
    return value


def _wrong(field: Field, text: str, more: str = "") -> InvalidInput:
    shown = text if len(text) <= 60 else text[:60] + "…"
    return InvalidInput(f"{field.name}={shown} is not right: {field.name} takes {field.hint}{more}")


def _integer(field: Field, text: str) -> int:
    try:
        return int(text)
    except ValueError as error:
        raise _wrong(field, text) from error


def _number(field: Field, text: str) -> float:
    try:
        number = float(text)
    except ValueError as error:
        raise _wrong(field, text) from error
    if not math.isfinite(number):
        raise _wrong(field, text)
    return int(number) if number.is_integer() and text.lstrip("+-").isdigit() else number


def _in_units(parse: Callable[[str], float]) -> Callable[[Field, str], float]:
    """A parser of values with units."""

    def parse_field(field: Field, text: str) -> float:
        try:
            return parse(text)
        except InvalidInput as error:
            raise _wrong(field, text) from error

    return parse_field


def _boolean(field: Field, text: str) -> bool:
    if text.lower() in _TRUE | _FALSE:
        return text.lower() in _TRUE
    raise _wrong(field, text)


def _list(field: Field, text: str) -> list[str]:
    return [item.strip() for item in text.split(",") if item.strip()]


def _json(kind: type, example: str, field: Field, text: str) -> object:
    try:
        value = msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise _wrong(field, text, f" such as '{example}' ({error})") from error
    if not isinstance(value, kind):
        raise _wrong(field, text)
    return value


def _time(field: Field, text: str) -> float:
    """Seconds since the epoch; a date without a zone is of this machine's."""
    try:
        return datetime.fromisoformat(text).timestamp()
    except (ValueError, OverflowError, OSError):
        return _number(field, text)


def _secret(field: Field, text: str) -> str | Wish:
    if text in (Wish.GENERATE.value, Wish.ASK.value):
        return Wish(text)
    if text.startswith("@"):
        return _file(field, text).strip()
    raise InvalidInput(
        f"a {field.name} is not spelled out in a command, where others could read it: leave it out to be asked for it, "
        f"or give {field.name}=@FILE or {field.name}=generate"
    )


def _file(field: Field, text: str) -> str:
    if not text.startswith("@"):
        raise InvalidInput(f"{field.name} is read from a file: give {field.name}=@FILE")
    path = text[1:]
    try:
        content = Path(path).expanduser().read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(f"cannot read {field.name} from {path}: it is not text in UTF-8") from error
    except OSError as error:
        raise ConfigError(f"cannot read {field.name} from {path}: {error.strerror or error}") from error
    if not content.strip():
        raise ConfigError(f"{path} is empty: it should hold the {field.name}")
    return content


_PARSERS: dict[Kind, Callable[[Field, str], object]] = {
    Kind.TEXT: lambda _, text: text,
    Kind.INTEGER: _integer,
    Kind.NUMBER: _number,
    Kind.SECONDS: _in_units(parse_seconds),
    Kind.BYTES: _in_units(parse_bytes),
    Kind.BOOLEAN: _boolean,
    Kind.LIST: _list,
    Kind.OBJECT: partial(_json, dict, '{"a": 1}'),
    Kind.ARRAY: partial(_json, list, '["a", 1]'),
    Kind.TIME: _time,
    Kind.SECRET: _secret,
    Kind.FILE: _file,
    Kind.LINES: lambda field, text: _file(field, f"@{text.removeprefix('@')}"),
}
