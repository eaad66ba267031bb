"""Records of administrators from and to plain fields, as both back ends keep them, and nothing else.

A record is kept as one object with the fields of its dataclass, its id under `id`; a function's namespace is added, so
that it can be asked for.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar, cast

import msgspec

from dts.model import (
    LAST_OPERATION,
    AlertRule,
    Function,
    Namespace,
    Operation,
    Record,
    Route,
    Schedule,
    Silence,
    User,
    VirtualHost,
)
from dts.model.secrets import Secret
from dts.store.contract.shared import storable_value

R = TypeVar("R", User, Namespace, Function, VirtualHost, Schedule, Route, AlertRule, Silence, Secret)

Scalar = str | int | float | bool
Where = Mapping[str, Scalar | tuple[Scalar, ...]]
"""What rows of a list must have: a field → its value, or several of which one must be; in a list, an element."""

TABLES: dict[type[Record], str] = {
    User: "users",
    Namespace: "namespaces",
    Function: "functions",
    VirtualHost: "vhosts",
    Route: "routes",
    Schedule: "schedules",
    AlertRule: "alert_rules",
    Silence: "silences",
    Secret: "secrets",
}
"""The table, or collection, of each kind of record."""

TITLES: dict[type[Record], str] = {
    User: "a user",
    Namespace: "a namespace",
    Function: "a function",
    VirtualHost: "a host",
    Route: "a route",
    Schedule: "a schedule",
    AlertRule: "an alert rule",
    Silence: "a silence",
    Secret: "a secret",
}

LISTS = frozenset({"roles", "namespaces", "routes", "groups", "retry_on", "hosts", "functions", "rules", "notify"})
"""The fields of records that hold several plain values."""

OPERATION_FILTERS = ("doc_id", "op_type", "operator", "outcome", "address")
"""The fields of operations that a list can be asked for."""


NO_ENTRY = "among the entries, and none of them"
"""What to say of something in the operation log that is not in its chain."""

NO_NUMBER_LEFT = (
    f"an entry of the operation log has the number {LAST_OPERATION}, so none can follow, and nothing was changed: "
    "somebody has put it there. Take it out, or restore the store from a backup; `operations verify` tells what else"
)
"""What to say when the log cannot go on."""


def taken(record: Record) -> str:
    """What to say when there is a record of that id already."""
    return f"there is {TITLES[type(record)]} {record.id} already"


def last_administrator(user_id: object) -> str:
    """What to say when nobody who can sign in would be an administrator."""
    return (
        f"{user_id} is the last administrator who can sign in: nothing was changed. Give another user who is not "
        "disabled the role administrator first, then try again"
    )


def fields_of(record: Record) -> dict[str, Any]:
    """A record as plain fields; bytes stay bytes."""
    fields = storable_value(msgspec.to_builtins(record, builtin_types=(bytes,), order="deterministic"))
    if isinstance(record, Function):
        fields["id"] = fields.pop("name")
        fields["namespace"] = record.namespace
    return cast("dict[str, Any]", fields)


def record_from(kind: type[R], fields: dict[str, Any]) -> R:
    """The record of such fields; what it does not know is passed over."""
    if kind is Function:
        fields["name"] = fields.pop("id")
    return msgspec.convert(fields, kind)


def to_json(record: Record) -> str:
    """A record as JSON; bytes become base64."""
    return msgspec.json.encode(fields_of(record)).decode()


def from_json(kind: type[R], text: str) -> R:
    """The record that `to_json` was given."""
    if kind is Function:
        return record_from(kind, msgspec.json.decode(text))
    return msgspec.json.decode(text, type=kind)


def ops_to_text(operation: Operation) -> str:
    """The change in an operation as JSON: its names may hold what a database does not allow in the name of a field."""
    return msgspec.json.encode(operation.ops).decode()


def ops_from_text(text: str) -> dict[str, Any]:
    """The change that `ops_to_text` was given; if somebody has made it unreadable, that, for the chain to tell."""
    try:
        return msgspec.json.decode(text, type=dict[str, Any])
    except (msgspec.MsgspecError, RecursionError):
        return {"unreadable": text}
