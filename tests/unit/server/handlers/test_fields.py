"""From the one Struct that declares a record's fields: what POST, PATCH and lists take."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Struct

from dts.server.handlers.admin.fields import changes, filters, initial, merge_patch
from dts.server.handlers.admin.fields import given as given_fields


class Colours(Struct, forbid_unknown_fields=True, kw_only=True):
    """Fields of a kind of records that is made up."""

    name: str = ""
    shades: tuple[str, ...] = ()
    strength: int | None = None


def test_what_is_not_given_is_told_from_null() -> None:
    kind = changes("ColourChanges", Colours, {"secret": str})
    assert given_fields(msgspec.convert({}, kind)) == {}
    assert given_fields(msgspec.convert({"name": None, "secret": "x"}, kind)) == {"name": None, "secret": "x"}
    for wrong in ({"colour": 1}, {"secret": None}, {"shades": "red"}):
        with pytest.raises(msgspec.ValidationError):
            msgspec.convert(wrong, kind)


def test_an_initial_record_needs_what_is_required() -> None:
    kind = initial("ColourInitial", Colours, {"id": str}, {"secret": str})
    assert given_fields(msgspec.convert({"id": "a"}, kind))["id"] == "a"
    with pytest.raises(msgspec.ValidationError, match="id"):
        msgspec.convert({"name": "x"}, kind)


def test_filters_take_one_plain_value_for_each_field() -> None:
    kind = filters("ColourFilters", Colours)
    found = given_fields(msgspec.convert({"shades": "red", "strength": "5", "limit": "7"}, kind, strict=False))
    assert found == {"shades": "red", "strength": 5, "limit": 7, "after": None}
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({"strength": str(10**30)}, kind, strict=False)


plain = st.dictionaries(st.text(max_size=3), st.integers() | st.text(max_size=3), max_size=4)


@given(target=plain, patch=st.dictionaries(st.text(max_size=3), st.none() | st.integers() | plain, max_size=4))
def test_a_patch_is_applied_once_however_often(target: dict[str, object], patch: dict[str, object]) -> None:
    once = merge_patch(target, patch)
    assert merge_patch(once, patch) == once
    assert not [name for name, value in patch.items() if value is None and name in once]
    assert all(once[name] == value for name, value in target.items() if name not in patch)
