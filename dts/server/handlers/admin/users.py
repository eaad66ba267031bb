"""`/admin/users/`: who may sign requests, and what they may do."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Any

from msgspec import Meta

from dts.model import User, check_user_id
from dts.server.consts import ErrorCode
from dts.server.handlers._base import ApiError
from dts.server.handlers.admin._base import AdminHandler, AdminListHandler, Resource
from dts.server.handlers.admin.fields import (
    Limited,
    NamespaceChoice,
    Role,
    Secret,
    Time,
    changes,
    filters,
    initial,
    view,
)

Grace = Annotated[float, Meta(ge=0, le=10**9)]


class UserFields(Limited, kw_only=True):
    """What can be written and read of a user."""

    roles: Annotated[tuple[Role, ...], Meta(min_length=1)] = ("user",)
    namespaces: tuple[NamespaceChoice, ...] = ()
    email: Annotated[str, Meta(max_length=254, pattern=r"^([^@\s]+@[^@\s]+)?$(?!\n)")] = ""
    disabled: bool = False


UserView = view(
    "UserView",
    UserFields,
    {"secret_expires": Time | None},
    "A user as answered: nothing of the secret, or of keys made from it.",
)


class Users(Resource[User]):
    """Users."""

    name = "users"
    kind = User
    fields = UserFields
    initial = initial("UserInitial", UserFields, {"id": str, "secret": Secret}, {})
    changes = changes("UserChanges", UserFields, {"secret": Secret, "grace": Grace})
    view = UserView
    filters = filters("UserFilters", UserView, without={"secret_expires"})
    write_only = frozenset({"secret", "grace"})
    blank = frozenset({"key"})

    def check_id(self, record_id: object) -> str:
        return check_user_id(record_id)

    def write_secrets(self, record: User, secrets: Mapping[str, Any]) -> User:
        """With another secret; the previous one is accepted for the grace time, or not at all."""
        if "secret" not in secrets:
            if "grace" in secrets:
                raise ApiError(ErrorCode.ARGUMENT_MISSING, "grace goes with a new secret: give that, too")
            return record
        key = self.context.accounts.sealed_key(record.id, secrets["secret"])
        grace = float(secrets.get("grace", self.context.settings.secret_grace))
        if not record.key or not grace:
            return replace(record, key=key, previous_key=b"", previous_until=None)
        until = round(time.time() + grace, 6)
        return replace(record, key=key, previous_key=record.key, previous_until=until)

    async def check_unused(self, record: User) -> None:
        if unfinished := await self.context.store.count_unfinished(user=record.id):
            raise ApiError(
                ErrorCode.IN_USE, f"the user {record.id} has {unfinished} unfinished jobs: cancel them first"
            )

    def extra(self, record: User) -> dict[str, Any]:
        expired = record.previous_until is None or record.previous_until <= time.time()
        return {"secret_expires": None if expired else record.previous_until}

    def forget(self, record_id: str) -> None:
        self.context.accounts.forget(record_id)


class UserAdminHandler(AdminHandler[User]):
    """`/admin/users/ID`: one user."""

    resource = Users


class UsersAdminHandler(AdminListHandler[User]):
    """`/admin/users/`: all users."""

    resource = Users
