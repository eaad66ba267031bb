"""Which names are allowed, how ids are made and taken apart."""

from __future__ import annotations

import math
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dts.errors import InvalidName
from dts.model import (
    block_id,
    check_user_id,
    derived_id,
    id_time,
    is_id,
    job_id,
    new_id,
    parse_function_name,
    split_job_id,
)


@pytest.mark.parametrize("name", ["text/upper", "a/b", "a1_/b_2", "server/deploy", "n" * 64 + "/" + "f" * 64])
def test_a_function_name_is_taken_apart(name: str) -> None:
    parsed = parse_function_name(name)
    assert str(parsed) == name
    assert [parsed.namespace, parsed.function] == name.split("/")


@pytest.mark.parametrize(
    "name",
    [
        "",
        "/",
        "upper",
        "text/",
        "/upper",
        "a/b/c",
        "Text/upper",
        "text/Upper",
        "1a/b",
        "_a/b",
        "a/../b",
        "a/b\n",
        "a/b ",
        "a.b/c",
        "text/üpper",
        "a/" + "f" * 65,
        "n" * 65 + "/f",
        None,
        7,
        b"text/upper",
        ["text/upper"],
    ],
)
def test_what_is_not_a_function_name_is_refused_with_the_rule(name: object) -> None:
    with pytest.raises(InvalidName, match="namespace/function"):
        parse_function_name(name)


def test_a_long_name_is_not_repeated_in_full() -> None:
    with pytest.raises(InvalidName) as caught:
        parse_function_name("x" * 10_000)
    assert len(caught.value.message) < 400


@pytest.mark.parametrize("user", ["ann", "a", "ann.b-c_d@example.org", "a" * 64])
def test_a_user_id_is_given_back(user: str) -> None:
    assert check_user_id(user) == user


@pytest.mark.parametrize(
    "user", ["", "Ann", "1ann", "ann bob", "ann\n", "a" * 65, "ann/bob", "änn", None, 1, {"$gt": ""}]
)
def test_what_is_not_a_user_id_is_refused(user: object) -> None:
    with pytest.raises(InvalidName, match="not a user name"):
        check_user_id(user)


def test_ids_are_unique_and_sorted_by_time(monkeypatch: pytest.MonkeyPatch) -> None:
    assert len({new_id() for _ in range(10_000)}) == 10_000
    made = []
    for second in range(1_700_000_000, 1_700_000_020):
        monkeypatch.setattr(time, "time_ns", lambda second=second: second * 10**9)
        made.append(new_id())
    assert made == sorted(made)
    assert all(is_id(one) for one in made)


@pytest.mark.parametrize(
    "text", ["", "x", "0" * 25, "0" * 27, "A" * 26, "0" * 25 + "-", "0" * 26 + "\n", "0" * 25 + "ü"]
)
def test_what_is_not_an_id_is_told(text: str) -> None:
    assert not is_id(text)


@given(st.integers(0, 10**18 - 1))
def test_a_job_id_is_taken_apart(number: int) -> None:
    run = new_id()
    assert split_job_id(job_id(run, number)) == (run, number)
    assert split_job_id(block_id(run, number)) == (run, number)


@given(st.text() | st.from_regex(r"[0-9a-z]{25,27}-[0-9٣²-]{0,20}", fullmatch=True))
def test_taking_apart_never_raises(text: str) -> None:
    parts = split_job_id(text)
    if parts is not None:
        run, number = parts
        assert is_id(run)
        assert 0 <= number < 10**18


def test_a_derived_id_has_the_time_of_the_other_and_belongs_to_its_owner() -> None:
    other = new_id()
    derived = derived_id(other, "ann")
    assert is_id(derived)
    assert derived == derived_id(other, "ann")
    assert len({derived, derived_id(other, "bob"), derived_id(new_id(), "ann"), other}) == 4
    assert id_time(derived) == id_time(other) == pytest.approx(time.time(), abs=5)
    assert id_time("nothing") == id_time("l" * 26) == id_time("") == math.inf
