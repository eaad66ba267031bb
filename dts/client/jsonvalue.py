"""Arguments from Python as JSON: exactly JSON's values, and nothing that only looks like one.

The encoder in C is generous: it writes a set as an array, bytes as base64, NaN as null. A function would be called
with something else than what was passed, so values are checked first. One pass finds out whether all is exactly a
JSON type, the common case; only a value that fails it is looked at again, to name the culprit.
"""

from __future__ import annotations

import json
import math
from typing import Any

import msgspec

from dts.errors import InvalidInput

MAX_NESTING = 200
"""How deep arrays and objects may be nested: less than what any process on the way can parse."""

_encode = msgspec.json.Encoder().encode


def encode_args(args: list[Any]) -> bytes:
    """Positional arguments as a JSON array.

    Raises:
        InvalidInput: one is not a JSON value; the message says what is wrong, and where.
    """
    return _encode_strictly(args, "argument")


def encode_kwargs(kwargs: dict[str, Any]) -> bytes:
    """Keyword arguments as a JSON object.

    Raises:
        InvalidInput: one is not a JSON value; the message says what is wrong, and where.
    """
    return _encode_strictly(kwargs, "keyword argument")


def _encode_strictly(value: list[Any] | dict[str, Any], what: str) -> bytes:
    try:
        if _is_exact(value, MAX_NESTING):
            return _encode(value)
        _check(value, what, MAX_NESTING)
        return json.dumps(value, allow_nan=False, ensure_ascii=False, separators=(",", ":")).encode()
    except UnicodeEncodeError as error:
        culprit = error.object[error.start : error.end]
        raise InvalidInput(f"{what}s hold a lone surrogate, which no Unicode text can: {culprit!a}") from None
    except ValueError as error:  # an integer with more digits than Python converts
        raise InvalidInput(f"{what}s cannot be written as JSON: {error}") from None


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


def _check(value: Any, place: str, levels: int) -> None:
    if isinstance(value, float) and not math.isfinite(value):
        raise InvalidInput(f"{place} is {float(value)}, and JSON has finite numbers only")
    if value is None or isinstance(value, (str, int, float)):
        return
    if not isinstance(value, (dict, list, tuple)):
        raise InvalidInput(f"{place} is of type {type(value).__name__}, which is not a JSON value")
    if not levels:
        raise InvalidInput(f"{place:.80} is nested more than {MAX_NESTING} levels deep, or contains itself")
    if isinstance(value, dict):
        for key, item in value.items():
            if not isinstance(key, str):
                raise InvalidInput(f"{place} has the key {key!r:.80}: the keys of a JSON object are strings")
            _check(item, f"{place}[{key!r}]", levels - 1)
    else:
        for index, item in enumerate(value):
            _check(item, f"{place}[{index}]", levels - 1)
