"""What a function may return, and what its caller is told of an exception."""

from __future__ import annotations

import datetime
import enum
import json
import logging
import math
import uuid
from collections import Counter, OrderedDict, namedtuple
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dts.worker import context
from dts.worker.attempt.failure import MAX_MESSAGE, MAX_TRACEBACK, describe, record_text
from dts.worker.attempt.result_json import MAX_DEPTH, ResultNotJSON, ResultTooLarge, encode_value
from dts.worker.child.yielded import Yielded

LIMIT = 1024 * 1024

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), inner),
    max_leaves=30,
)


@given(json_values)
def test_a_json_value_survives(value: Any) -> None:
    assert json.loads(encode_value(value, LIMIT)) == value


class Colour(enum.StrEnum):
    RED = "red"


class Plain(enum.Enum):
    ONE = 1


class Level(enum.IntEnum):
    HIGH = 3


def test_subclasses_of_json_types_are_written_as_those() -> None:
    point = namedtuple("point", "x y")
    value = {"point": point(1, 2), "counter": Counter("aab"), "ordered": OrderedDict(a=Level.HIGH), "e": Colour.RED}
    assert json.loads(encode_value(value, LIMIT)) == {
        "point": [1, 2],
        "counter": {"a": 2, "b": 1},
        "ordered": {"a": 3},
        "e": "red",
    }


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ({1, 2}, "result is of type set"),
        ([1, {"a": b"x"}], r"result\[1\]\['a'\] is of type bytes"),
        (datetime.date(2024, 1, 1), r"of type datetime\.date.*: return value\.isoformat\(\)"),
        (datetime.datetime(2024, 1, 1), r"of type datetime\.datetime.*isoformat"),
        ({"t": datetime.timedelta(1)}, r"result\['t'\] is of type datetime\.timedelta.*total_seconds"),
        (Decimal("1.5"), r"of type decimal\.Decimal.*str\(value\)"),
        ([uuid.uuid4()], r"of type uuid\.UUID.*str\(value\)"),
        (Path("a"), r"of type pathlib.*str\(path\)"),
        (Plain.ONE, r"Plain.*member\.value"),
        (object(), "of type object"),
        (math.nan, "is nan"),
        ({"a": [math.inf]}, r"result\['a'\]\[0\] is inf"),
        ({1: 2}, "the key 1: the keys of a JSON object are strings"),
        ({None: 2}, "the key None"),
        ({Level.HIGH: 2}, "the key"),
        ("\ud800", "lone surrogate"),
        ({"\udfff": 1}, "lone surrogate"),
        (Counter({"\ud800": 1}), "lone surrogate"),
        pytest.param(10**5000, "digits", id="huge"),
    ],
)
def test_what_is_not_json_is_refused_by_name(value: Any, said: str) -> None:
    with pytest.raises(ResultNotJSON, match=said):
        encode_value(value, LIMIT)


def test_values_of_numpy_are_named_with_what_to_return_instead() -> None:
    """Stands in for numpy, which tests do not install: what counts is the name and module of the classes."""
    generic = type("generic", (), {"__module__": "numpy"})
    int64 = type("int64", (generic,), {"__module__": "numpy"})
    ndarray = type("ndarray", (), {"__module__": "numpy"})
    with pytest.raises(ResultNotJSON, match=r"result\[0\] is of type numpy\.int64.*: return value\.item\(\)"):
        encode_value([int64()], LIMIT)
    with pytest.raises(ResultNotJSON, match=r"of type numpy\.ndarray.*: return array\.tolist\(\)"):
        encode_value(ndarray(), LIMIT)


def test_a_coroutine_that_nobody_awaited_is_explained() -> None:
    async def work() -> None:
        """Never runs."""

    coroutine = work()
    with pytest.raises(ResultNotJSON, match="async def main"):
        encode_value(coroutine, LIMIT)
    coroutine.close()


def test_values_that_contain_themselves_or_are_too_deep_are_refused() -> None:
    circle: list[Any] = []
    circle.append({"again": circle})
    with pytest.raises(ResultNotJSON, match="contains itself"):
        encode_value(circle, LIMIT)
    deep: list[Any] = []
    for _ in range(MAX_DEPTH - 1):
        deep = [deep]
    assert json.loads(encode_value(deep, LIMIT)) == deep
    with pytest.raises(ResultNotJSON, match="levels deep"):
        encode_value([deep], LIMIT)


def test_a_result_over_the_limit_is_refused_with_its_size() -> None:
    assert encode_value("x" * 98, 100)
    with pytest.raises(ResultTooLarge, match=r"101 bytes.*100"):
        encode_value("x" * 99, 100)


def raised(error: BaseException) -> BaseException:
    """An exception as it is when a function raised it."""

    def main() -> None:
        raise error

    try:
        main()
    except BaseException as caught:  # noqa: BLE001 - the subject of the test
        return caught
    raise AssertionError


def test_an_error_tells_type_message_and_where_in_the_function() -> None:
    told = describe(raised(ValueError("no good")))
    assert (told.type, told.message) == ("ValueError", "no good")
    assert told.traceback.startswith("Traceback (most recent call last):")
    assert "in main" in told.traceback
    assert "in raised" not in told.traceback, "the frame that caught it is not the user's"
    assert describe(raised(json.JSONDecodeError("x", "", 0))).type == "json.decoder.JSONDecodeError"


def test_sys_exit_is_explained() -> None:
    told = describe(raised(SystemExit(3)))
    assert told.type == "SystemExit"
    assert told.message == "the function called sys.exit(3)"


class HostileError(Exception):
    def __str__(self) -> str:
        raise RuntimeError


def test_hostile_and_huge_errors_are_told_within_bounds() -> None:
    assert "RuntimeError" in describe(raised(HostileError())).message
    told = describe(raised(ValueError("ä" * 100_000)))
    assert len(told.message) < MAX_MESSAGE + 100
    assert len(told.traceback) < MAX_TRACEBACK + 100
    assert "left out" in told.message
    assert describe(raised(ValueError("a\ud800b"))).message == "a\\ud800b"

    def deeper(depth: int) -> None:
        deeper(depth + 1)

    with pytest.raises(RecursionError) as caught:
        deeper(0)
    assert describe(caught.value).type == "RecursionError"


def say_text(value: object) -> type:
    return str


def say_nothing(value: object) -> type:
    raise KeyboardInterrupt


@pytest.mark.parametrize("says", [say_text, say_nothing])
def test_what_a_value_says_of_its_class_is_not_believed(says: Callable[[object], type]) -> None:
    odd = type("Odd", (), {"__class__": property(says)})()
    with pytest.raises(ResultNotJSON, match=r"result\[0\] is of type .*Odd"):
        encode_value([odd], LIMIT)


@pytest.mark.parametrize("value", [object(), "a\ud800", float("nan"), {1: 2}])
def test_a_yielded_value_is_not_called_a_result(value: Any) -> None:
    with pytest.raises(ResultNotJSON, match="yielded value") as caught:
        Yielded(LIMIT).add(value)
    assert "result" not in str(caught.value)


@pytest.mark.parametrize(
    "told", [(10**400,), (1, 10**400), (None,), (1j,), ("much",), (-1,), (1, math.inf), (math.nan,)]
)
def test_progress_that_is_no_number_is_a_value_error(told: tuple[Any, ...]) -> None:
    with pytest.raises(ValueError, match="progress takes"):
        context.progress(*told)


def test_a_log_record_has_the_stack_that_was_asked_for() -> None:
    record = logging.LogRecord("x", 30, "f.py", 1, "where am I", (), None, sinfo="Stack (most recent call last):\n  …")
    assert record_text(record) == "where am I\nStack (most recent call last):\n  …"
