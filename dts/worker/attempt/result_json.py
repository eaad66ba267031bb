"""What a function may return: a JSON value, of a size that can travel."""

from __future__ import annotations

from typing import Any

import msgspec

from dts.errors import DtsError
from dts.wire.jsonvalue import MAX_DEPTH, NotJSON, TooDeep, encode_json

_encode = msgspec.json.Encoder().encode


class ResultNotJSON(DtsError):
    """The function returned something that is not a JSON value."""


class ResultTooLarge(DtsError):
    """The function returned more than a result may hold."""


def encode_value(value: Any, max_size: int, what: str = "result") -> bytes:
    """The JSON text of a function's result, or `what` else messages call it.

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
        raise ResultNotJSON(f"{error.message}{_hint(error.culprit)}") from None
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


def _hint(value: object) -> str:
    kind = type(value)
    if hasattr(kind, "__await__"):
        return ": write `async def main`, or await it"
    if issubclass(kind, (set, frozenset)):
        return ": return a sorted list"
    if issubclass(kind, (bytes, bytearray)):
        return ": decode it to text"
    return ""
