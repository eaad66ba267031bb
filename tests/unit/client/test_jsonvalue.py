"""Arguments from Python are JSON values, or refused."""

from __future__ import annotations

import enum
import json
from typing import Any

import msgspec
import pytest

from dts.client.jsonvalue import MAX_NESTING, encode_args, encode_kwargs
from dts.errors import InvalidInput


class Colour(enum.IntEnum):
    """An int that is more than an int."""

    RED = 1


class Text(str):
    """A str that is more than a str."""

    __slots__ = ()


def nested(levels: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(levels - 1):
        value = [value]
    return value


@pytest.mark.parametrize(
    "value", [None, True, 0, -1.5, "ü\n", [], {}, [1, {"a": [None]}], Colour.RED, Text("x"), 2**64, 10**30, -(2**70)]
)
def test_json_values_pass(value: Any) -> None:
    assert json.loads(encode_args([value])) == [value]
    assert json.loads(encode_kwargs({"k": value})) == {"k": value}


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (float("nan"), r"argument\[0\] is nan"),
        ([float("-inf")], r"argument\[0\]\[0\] is -inf"),
        ({"x"}, "of type set"),
        (b"x", "of type bytes"),
        ({1: 2}, "has the key 1: the keys"),
        ({"a": {None: 1}}, r"argument\[0\]\['a'\] has the key None"),
        ("\ud800", r"a lone surrogate, .* '\\ud800'"),
        ({"\udfff": 1}, "a lone surrogate"),
        (Text("\ud800"), "a lone surrogate"),
        (object(), "of type object"),
        (msgspec.Raw(b"1"), "of type Raw"),
        pytest.param(10**5000, "cannot be written as JSON", id="too many digits"),
        (nested(MAX_NESTING), "nested more than 200 levels"),
    ],
)
def test_what_is_no_json_value_is_refused(value: Any, reason: str) -> None:
    with pytest.raises(InvalidInput, match=reason):
        encode_args([value])
    with pytest.raises(InvalidInput):
        encode_kwargs({"k": value})


def test_nesting_up_to_the_limit_passes() -> None:
    assert encode_args(nested(MAX_NESTING)).count(b"[") == MAX_NESTING


def test_what_contains_itself_is_refused() -> None:
    value: list[Any] = []
    value.append(value)
    with pytest.raises(InvalidInput, match="contains itself"):
        encode_args(value)
