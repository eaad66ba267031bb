"""`/admin/users/`: who may sign requests, and what they may do."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Any

from msgspec import Meta

from dts.errors import LastAdministrator
from dts.model import ADMINISTRATOR, ANY_NAMESPACE, RESERVED_NAMESPACE, Namespace, User, check_user_id
from dts.server.consts import ErrorCode
from dts.server.ending.cancel import cancel_unfinished
from dts.server.handlers import validation_messages
from dts.server.handlers.admin._base import AdminHandler, AdminListHandler, Resource
from dts.server.handlers.admin.fields import (
    ForceQuery,
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
from dts.server.handlers.errors import ApiError
from dts.store.contract.records import Where, last_administrator
from dts.wire.numbers import Wait, Weight


class UserFields(Limited, kw_only=True):
    """What can be written and read of a user."""

    roles: Annotated[tuple[Role, ...], Meta(min_length=1)] = ("user",)
    namespaces: tuple[NamespaceChoice, ...] = ()
    email: Annotated[str, Meta(max_length=254, pattern=validation_messages.EMAIL)] = ""
    disabled: bool = False
    weight: Weight = 1.0
    paused: bool = False


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
    changes = changes("UserChanges", UserFields, {"secret": Secret, "grace": Wait})
    view = UserView
    filters = filters("UserFilters", UserView, without={"secret_expires"})
    write_only = frozenset({"secret", "grace"})
    blank = frozenset({"key"})
    creation = ForceQuery
    conflicts = (ErrorCode.LAST_ADMINISTRATOR,)

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

    async def check_new(self, record_id: str, query: ForceQuery) -> None:
        """Whose id has runs of somebody who was deleted would see them, and their results."""
        store = self.context.store
        if query.force or await store.get_user(record_id) is not None:
            return
        if await store.list_runs(record_id, limit=1):
            raise ApiError(
                ErrorCode.IN_USE,
                f"there are runs of a user {record_id} who was deleted: choose another id, or hand them over to the "
                "new user with ?force=true (--force)",
            )

    async def check_allowed(self, record: User, before: User | None) -> None:
        had = before.namespaces if before is not None else ()
        for name in record.namespaces:
            if name in had or name == ANY_NAMESPACE:
                continue
            if name == RESERVED_NAMESPACE:
                message = f"namespaces: {name} is the server's own, which administrators use without being in it"
                raise ApiError(ErrorCode.ARGUMENT_INVALID, message)
            if await self.context.store.get_record(Namespace, name) is None:
                raise ApiError(ErrorCode.ARGUMENT_INVALID, f"namespaces: there is no namespace {name}: make it first")

    async def check_unused(self, record: User) -> None:
        if unfinished := await self.context.store.count_unfinished(user=record.id):
            raise ApiError(
                ErrorCode.IN_USE,
                f"the user {record.id} has {unfinished} unfinished jobs: cancel them first, or with the user by "
                "?force=true (--force)",
            )

    async def stop(self, record: User) -> None:
        """Their jobs are cancelled: nobody could fetch the results."""
        context = self.context
        if record.is_administrator and not await self._has_another_administrator(record.id):
            raise LastAdministrator(last_administrator(record.id))
        _, runs = await cancel_unfinished(context.store, context.broker, user=record.id)
        for run_id in runs:
            context.hub.wake(run_id)

    async def _has_another_administrator(self, user_id: str) -> bool:
        """Looked at before anything is cancelled; what decides is the store, when it deletes."""
        where: Where = {"roles": ADMINISTRATOR, "disabled": False}
        return any(user.id != user_id for user in await self.context.store.list_records(User, where=where, limit=2))

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
