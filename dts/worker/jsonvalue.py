"""What a function may return: a JSON value, and nothing that only looks like one.

The encoder in C is generous: it writes a set as an array, a date as text, NaN as null. A caller would get back
something else than the function returned, so values are checked first. One pass in Python finds out whether all is
exactly a JSON type, the common case; only a value that fails it is looked at again, to name the culprit.
"""

from __future__ import annotations

import json
import math
from typing import Any

import msgspec

from dts.errors import DtsError

MAX_DEPTH = 200
"""Levels of arrays and objects within each other. Readers of JSON differ in what they bear; all bear this."""

_encode = msgspec.json.Encoder().encode


class ResultNotJSON(DtsError):
    """The function returned something that is not a JSON value."""


class ResultTooLarge(DtsError):
    """The function returned more than a result may hold."""


def encode_value(value: Any, max_size: int) -> bytes:
    """The JSON text of a function's result.

    Raises:
        ResultNotJSON: it is not a JSON value; the message says what is wrong, and where.
        ResultTooLarge: its text has more than `max_size` bytes.
    """
    kind = type(value)
    try:
        if kind is str or kind is int or value is None or kind is bool or _is_exact(value, MAX_DEPTH):
            text: bytes = _encode(value)
        else:
            text = _encode_strictly(value)
    except UnicodeEncodeError as error:
        raise ResultNotJSON(
            f"the result holds a lone surrogate, which no Unicode text can: {error.object[error.start : error.end]!a}"
        ) from None
    except ValueError as error:  # an integer with more digits than Python converts
        raise ResultNotJSON(f"the result cannot be written as JSON: {error}") from None
    if len(text) > max_size:
        raise ResultTooLarge(
            f"the result has {len(text)} bytes as JSON and the limit is {max_size}: return less, or a reference to it"
        )
    return text


def _is_exact(value: Any, levels: int) -> bool:
    """Whether a value is made of exactly the types that JSON has, no subclasses, at most `levels` deep."""
    kind = type(value)
    if kind is str or kind is int or value is None or kind is bool:
        return True
    if kind is float:
        return math.isfinite(value)
    if not levels:
        return False
    if kind is dict:
        return all(type(key) is str and _is_exact(item, levels - 1) for key, item in value.items())
    if kind is list or kind is tuple:
        return all(_is_exact(item, levels - 1) for item in value)
    return False


def _encode_strictly(value: Any) -> bytes:
    """Encode a value that holds subclasses of JSON's types, or say why it is not JSON."""
    _check(value, "result", MAX_DEPTH)
    text = json.dumps(value, allow_nan=False, ensure_ascii=False, separators=(",", ":"))
    return text.encode()


def _check(value: Any, place: str, levels: int) -> None:
    if isinstance(value, float) and not math.isfinite(value):
        raise ResultNotJSON(f"{place} is {float(value)}, and JSON has finite numbers only")
    if value is None or isinstance(value, (str, int, float)):
        return
    if not isinstance(value, (dict, list, tuple)):
        raise ResultNotJSON(f"{place} is of type {type(value).__name__}, which is not a JSON value{_hint(value)}")
    if not levels:
        raise ResultNotJSON(f"the result is nested more than {MAX_DEPTH} levels deep, or contains itself")
    if isinstance(value, dict):
        for key, item in value.items():
            if not isinstance(key, str):
                raise ResultNotJSON(f"{place} has the key {key!r:.80}: the keys of a JSON object are strings")
            _check(item, f"{place}[{key!r}]", levels - 1)
    else:
        for index, item in enumerate(value):
            _check(item, f"{place}[{index}]", levels - 1)


def _hint(value: Any) -> str:
    if hasattr(value, "__await__"):
        return ": write `async def main`, or await it"
    if isinstance(value, (set, frozenset)):
        return ": return a sorted list"
    if isinstance(value, (bytes, bytearray)):
        return ": decode it to text"
    return ""
