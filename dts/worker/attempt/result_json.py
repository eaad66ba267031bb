"""Encodes what a function returns: it must be a JSON value, of a size that a message can carry."""

from __future__ import annotations

from typing import Any

import msgspec

from dts.errors import DtsError
from dts.wire.jsonvalue import MAX_DEPTH, NotJSON, TooDeep, encode_json
from dts.worker.attempt.introspection import full_name, names_of

_encode = msgspec.json.Encoder().encode


class ResultNotJSON(DtsError):
    """The function returned something that is not a JSON value."""


class ResultTooLarge(DtsError):
    """The function returned more than a result may hold."""


def encode_value(value: Any, max_size: int, what: str = "result") -> bytes:
    """The JSON text of a function's result; `what` is what messages call the value.

    Raises:
        ResultNotJSON: it is not a JSON value; the message says what is wrong, and where.
        ResultTooLarge: its text has more than `max_size` bytes.
    """
    kind = type(value)
    try:
        # The common kinds are encoded without a further call: this is done for every job.
        plain = kind is str or kind is int or value is None or kind is bool
        text = _encode(value) if plain else encode_json(value, what)
    except TooDeep:
        raise ResultNotJSON(f"the {what} is nested more than {MAX_DEPTH} levels deep, or contains itself") from None
    except NotJSON as error:
        raise ResultNotJSON(_explain(error)) from None
    except UnicodeEncodeError as error:
        raise ResultNotJSON(
            f"the {what} holds a lone surrogate, which no Unicode text can: {error.object[error.start : error.end]!a}"
        ) from None
    except ValueError as error:  # an integer with more digits than Python converts
        raise ResultNotJSON(f"the {what} cannot be written as JSON: {error}") from None
    if len(text) > max_size:
        raise ResultTooLarge(
            f"the {what} has {len(text)} bytes as JSON and the limit is {max_size}: return less, or a reference to it"
        )
    return text


def _explain(error: NotJSON) -> str:
    """What is wrong with a value, with the module of its type, and what to return in its place."""
    if not error.place:
        return error.message
    kind = type(error.culprit)
    return f"{error.place} is of type {full_name(kind)}, which is not a JSON value{_cure(kind)}"


_CURES = (
    ("datetime.datetime", "return value.isoformat()"),
    ("datetime.date", "return value.isoformat()"),
    ("datetime.time", "return value.isoformat()"),
    ("datetime.timedelta", "return value.total_seconds()"),
    ("decimal.Decimal", "return str(value), which keeps all digits, or float(value)"),
    ("fractions.Fraction", "return str(value) or float(value)"),
    ("uuid.UUID", "return str(value)"),
    ("pathlib.PurePath", "return str(path)"),
    ("pathlib._local.PurePath", "return str(path)"),  # as Python 3.13 names it
    ("enum.Enum", "return member.value"),
    ("numpy.generic", "return value.item()"),
    ("numpy.ndarray", "return array.tolist()"),
    ("pandas.Series", "return series.tolist()"),
    ("pandas.DataFrame", "return frame.to_dict('records')"),
    ("pandas.core.series.Series", "return series.tolist()"),
    ("pandas.core.frame.DataFrame", "return frame.to_dict('records')"),
    ("complex", "return [value.real, value.imag]"),
    ("set", "return a sorted list"),
    ("frozenset", "return a sorted list"),
    ("bytes", "decode it to text"),
    ("bytearray", "decode it to text"),
)
"""What to return in place of a value of a type, by the type's name; the first one that fits counts."""


def _cure(kind: type) -> str:
    if hasattr(kind, "__await__"):
        return ": write `async def main`, or await it"
    names = names_of(kind)
    return next((f": {cure}" for name, cure in _CURES if name in names), "")
