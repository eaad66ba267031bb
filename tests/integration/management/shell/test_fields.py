"""What the shell offers is what the server declares: a field that only one of them knows fails here."""

from __future__ import annotations

from typing import Any

import pytest

from dts.management.commands.functions import FUNCTIONS
from dts.management.commands.namespaces import NAMESPACES
from dts.management.commands.records import RecordKind
from dts.management.commands.schedules import SCHEDULES
from dts.management.commands.users import ROLES, USERS
from dts.management.commands.vhosts import VHOSTS
from dts.model import Limits
from dts.server.access import roles
from dts.server.handlers.admin.functions import FunctionAdminHandler
from dts.server.handlers.admin.namespaces import NamespaceAdminHandler
from dts.server.handlers.admin.schedules import ScheduleAdminHandler
from dts.server.handlers.admin.users import UserAdminHandler
from dts.server.handlers.admin.vhosts import VirtualHostAdminHandler

EVERY_KIND = pytest.mark.parametrize(
    ("kind", "handler"),
    [
        (USERS, UserAdminHandler),
        (NAMESPACES, NamespaceAdminHandler),
        (FUNCTIONS, FunctionAdminHandler),
        (VHOSTS, VirtualHostAdminHandler),
        (SCHEDULES, ScheduleAdminHandler),
    ],
    ids=lambda value: getattr(value, "noun", ""),
)


def names(struct: Any) -> set[str]:
    """The fields of what a handler declares."""
    return set(struct.__struct_fields__)


def whole(fields: list[str]) -> set[str]:
    """Names of fields, those of `limits.…` as one."""
    return {name.partition(".")[0] for name in fields}


@EVERY_KIND
def test_what_can_be_written(kind: RecordKind, handler: Any) -> None:
    assert whole([field.name for field in kind.fields if field.initial]) == names(handler.resource.initial) - {"id"}
    assert whole([field.name for field in kind.fields if field.updatable]) == names(handler.resource.changes)


@EVERY_KIND
def test_what_can_be_read(kind: RecordKind, handler: Any) -> None:
    assert {field.name for field in kind.readable} == names(handler.resource.view)
    assert {column.field for column in kind.columns} <= names(handler.resource.view)


@EVERY_KIND
def test_what_a_list_is_filtered_by(kind: RecordKind, handler: Any) -> None:
    assert {field.name for field in kind.filters} <= names(handler.resource.filters)


def test_roles_and_limits() -> None:
    assert set(ROLES) == set(roles.ROLES)
    offered = {field.name.partition(".")[2] for kind in (USERS, FUNCTIONS) for field in kind.fields_of_limits}
    assert offered == set(Limits.__dataclass_fields__)
