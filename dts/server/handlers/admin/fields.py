"""The fields of records as requests and answers have them: from one Struct, the others are made.

A kind of records declares its plain fields once, with types and defaults. What POST takes is these with the id and the
write-only ones; what PATCH takes is the same with every field optional, and null for the default; the filters of a
list are those that hold one plain value, or a list of such.
"""

from __future__ import annotations

import types
from collections.abc import Collection, Mapping
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from dts.model.ranges import JOBS, MAX_NUMBER, RATE, RUNNING
from dts.server.handlers import validation_messages
from dts.server.handlers._base import PageQuery
from dts.wire.numbers import Priority, Seconds

Text = Annotated[str, Meta(max_length=10_000)]
Time = Annotated[float, Meta(description="seconds since the epoch")]
Role = Literal["administrator", "operator", "developer", "user"]

NamespaceChoice = Annotated[str, Meta(pattern=validation_messages.NAMESPACE_CHOICE)]
RouteName = Annotated[str, Meta(pattern=validation_messages.ROUTE)]
GroupName = Annotated[str, Meta(pattern=validation_messages.GROUP)]
Secret = Annotated[str, Meta(min_length=8, max_length=1024)]
Rate = Annotated[float, Meta(ge=RATE.low, le=RATE.high)]
Running = Annotated[int, Meta(ge=int(RUNNING.low), le=int(RUNNING.high))]
KeyText = Annotated[str, Meta(min_length=1, max_length=20_000)]


class LimitsFields(Struct, forbid_unknown_fields=True, kw_only=True):
    """What a user, a namespace or a function may take; a limit that is absent or null is none."""

    unfinished: Annotated[int, Meta(ge=int(JOBS.low), le=int(JOBS.high))] | UnsetType | None = UNSET
    requests_per_second: Rate | UnsetType | None = UNSET
    running: Running | UnsetType | None = UNSET
    priority: Priority | UnsetType | None = UNSET
    retention: Seconds | UnsetType | None = UNSET


class FunctionLimits(LimitsFields, kw_only=True):
    """What a function may take: starts a second, and so many jobs at once, and starts, for each value of a key."""

    starts_per_second: Rate | UnsetType | None = UNSET
    key: Annotated[str, Meta(pattern=validation_messages.KEY)] | UnsetType | None = UNSET
    key_running: Running | UnsetType | None = UNSET
    key_starts_per_second: Rate | UnsetType | None = UNSET


class RouteLimits(Struct, forbid_unknown_fields=True, kw_only=True):
    """What a route may take."""

    running: Running | UnsetType | None = UNSET


class Limited(Struct, forbid_unknown_fields=True, kw_only=True):
    """Fields of what has limits."""

    limits: LimitsFields = msgspec.field(default_factory=LimitsFields)


_STAMPS: dict[str, Any] = {"created": Time, "modified": Time, "version": int}
"""What every record has that cannot be written."""


class NoQuery(Struct, forbid_unknown_fields=True, kw_only=True):
    """No arguments in the query."""


class ForceQuery(Struct, forbid_unknown_fields=True, kw_only=True):
    """Whether to delete what is still in use."""

    force: bool = False


def initial(name: str, fields: type[Struct], required: Mapping[str, Any], optional: Mapping[str, Any]) -> type[Struct]:
    """What POST takes: `fields`, what is required besides, and what is optional besides."""
    more: list[Any] = [*required.items(), *((field, kind | None, None) for field, kind in optional.items())]
    return msgspec.defstruct(name, more, bases=(fields,), forbid_unknown_fields=True, kw_only=True)


def view(name: str, fields: type[Struct], more: Mapping[str, Any], doc: str) -> type[Struct]:
    """What is answered: id, `fields`, `more` that can only be read, and what every record has."""
    read_only = [("id", str), *more.items(), *_STAMPS.items()]
    return msgspec.defstruct(
        name, read_only, bases=(fields,), namespace={"__doc__": doc}, forbid_unknown_fields=False, kw_only=True
    )


def changes(name: str, fields: type[Struct], write_only: Mapping[str, Any]) -> type[Struct]:
    """What PATCH takes: every field optional, null where it has a default to go back to."""
    hints = get_type_hints(fields, include_extras=True)
    plain = [(field, kind | None | UnsetType, UNSET) for field, kind in hints.items()]
    secret = [(field, kind | UnsetType, UNSET) for field, kind in write_only.items()]
    return msgspec.defstruct(name, [*plain, *secret], forbid_unknown_fields=True, kw_only=True)


def filters(name: str, view: type[Struct], *, without: Collection[str] = ()) -> type[Struct]:
    """The query of a list: its page, and a filter for each field of `view` that holds plain values in the store."""
    hints = get_type_hints(view, include_extras=True)
    kinds = {field: _plain(hint) for field, hint in hints.items() if field not in without}
    plain = [(field, kind | UnsetType, UNSET) for field, kind in kinds.items() if kind is not None]
    return msgspec.defstruct(name, plain, bases=(PageQuery,), forbid_unknown_fields=True, kw_only=True)


def defaults(fields: type[Struct]) -> dict[str, Any]:
    """The fields of a Struct by default, as plain values; every one has a default."""
    return given(fields())


def given(struct: Struct) -> dict[str, Any]:
    """The fields of a Struct that are set, as plain values."""
    fields: dict[str, Any] = msgspec.to_builtins(struct)
    return fields


def merge_patch(target: Mapping[str, Any], patch: Mapping[str, Any]) -> dict[str, Any]:
    """`target` changed by a JSON Merge Patch (RFC 7396): null takes a field out, objects are merged."""
    merged = dict(target)
    for name, value in patch.items():
        if value is None:
            merged.pop(name, None)
        elif isinstance(value, dict):
            before = merged.get(name)
            merged[name] = merge_patch(before if isinstance(before, dict) else {}, value)
        else:
            merged[name] = value
    return merged


def _plain(hint: Any) -> Any:
    """The type of one plain value in a field of that type, without its bounds; None if it holds no such thing."""
    origin = get_origin(hint)
    if origin is Annotated:
        return _plain(get_args(hint)[0])
    if origin in (Union, types.UnionType):
        kinds = [kind for kind in map(_plain, get_args(hint)) if kind is not None]
        return kinds[0] if kinds else None
    if origin in (tuple, list):
        return _plain(get_args(hint)[0])
    if hint is int:
        return Annotated[int, Meta(ge=-MAX_NUMBER, le=MAX_NUMBER)]
    return hint if origin is Literal or hint in (str, float, bool) else None
