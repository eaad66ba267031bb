"""Python values as JSON text: exactly JSON's values, and nothing that only looks like one.

The encoder in C is generous: it writes a set as an array, bytes as base64, NaN as null. A reader would get something
else than the writer had, so values are checked first. One pass finds out whether all is exactly a JSON type, the
common case; only a value that fails it is looked at again, to name the culprit.
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


class NotJSON(DtsError):
    """The value is not one of JSON's. If the reason is its type, `culprit` is the value and `place` where it is."""

    def __init__(self, message: str, culprit: object = None, place: str = "") -> None:
        super().__init__(message)
        self.culprit = culprit
        self.place = place


class TooDeep(NotJSON):
    """The value is nested too deeply, or contains itself."""


def encode_json(value: Any, place: str) -> bytes:
    """The JSON text of a value; `place` is what messages call it.

    Raises:
        NotJSON: it is not a JSON value; the message says what is wrong, and where.
        TooDeep: it has more than `MAX_DEPTH` levels.
        UnicodeEncodeError: it holds a lone surrogate.
        ValueError: it holds an integer with more digits than Python converts.
    """
    if _is_exact(value, MAX_DEPTH):
        return _encode(value)
    _check(value, place, MAX_DEPTH)
    return json.dumps(value, allow_nan=False, ensure_ascii=False, separators=(",", ":")).encode()


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
    kind = type(value)  # not isinstance, which also believes what a value says of its class
    if issubclass(kind, float) and not math.isfinite(value):
        raise NotJSON(f"{place} is {float(value)}, and JSON has finite numbers only")
    if value is None or issubclass(kind, (str, int, float)):
        return
    if not issubclass(kind, (dict, list, tuple)):
        raise NotJSON(f"{place} is of type {kind.__name__}, which is not a JSON value", value, place)
    if not levels:
        raise TooDeep(f"{place:.80} is nested more than {MAX_DEPTH} levels deep, or contains itself")
    if issubclass(kind, dict):
        for key, item in value.items():
            if not issubclass(type(key), str):
                raise NotJSON(f"{place} has the key {key!r:.80}: the keys of a JSON object are strings")
            _check(item, f"{place}[{key!r}]", levels - 1)
    else:
        for index, item in enumerate(value):
            _check(item, f"{place}[{index}]", levels - 1)
