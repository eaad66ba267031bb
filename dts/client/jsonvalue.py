"""Arguments from Python as JSON: exactly JSON's values, so that a function is called with what was passed."""

from __future__ import annotations

import json
from typing import Any

from dts.errors import InvalidInput
from dts.wire.jsonvalue import MAX_DEPTH as MAX_NESTING
from dts.wire.jsonvalue import NotJSON, encode_json

__all__ = ["MAX_NESTING", "encode_args", "encode_kwargs"]


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


def lone_surrogate(text: bytes) -> str:
    """The first lone surrogate in what is JSON but for that, such as `["\\ud800"]`; empty when there is none."""
    try:
        json.dumps(json.loads(text), ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        return ascii(error.object[error.start]).strip("'")
    except (ValueError, RecursionError):
        return ""
    return ""


def _encode_strictly(value: list[Any] | dict[str, Any], what: str) -> bytes:
    try:
        return encode_json(value, what)
    except NotJSON as error:
        raise InvalidInput(error.message) from None
    except UnicodeEncodeError as error:
        culprit = error.object[error.start : error.end]
        raise InvalidInput(f"{what}s hold a lone surrogate, which no Unicode text can: {culprit!a}") from None
    except ValueError as error:  # an integer with more digits than Python converts
        raise InvalidInput(f"{what}s cannot be written as JSON: {error}") from None
