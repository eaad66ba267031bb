"""`/admin/namespaces/`: groups of functions, and who belongs to them."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from dts.model import ANY_NAMESPACE, Function, Namespace, Record, User, check_namespace
from dts.model.secrets import Secret
from dts.server.consts import ErrorCode
from dts.server.handlers.admin._base import AdminHandler, AdminListHandler, Resource
from dts.server.handlers.admin.fields import ForceQuery, Limited, Text, changes, filters, initial, view
from dts.server.handlers.admin.functions import Functions
from dts.server.handlers.admin.secrets import Secrets
from dts.server.handlers.errors import ApiError
from dts.store.contract.records import Scalar
from dts.wire.numbers import Weight

logger = logging.getLogger(__name__)


class NamespaceFields(Limited, kw_only=True):
    """What can be written and read of a namespace."""

    description: Text = ""
    weight: Weight = 1.0
    paused: bool = False


NamespaceView = view("NamespaceView", NamespaceFields, {}, "A namespace as answered.")


class Namespaces(Resource[Namespace]):
    """Namespaces."""

    name = "namespaces"
    kind = Namespace
    fields = NamespaceFields
    initial = initial("NamespaceInitial", NamespaceFields, {"id": str}, {})
    changes = changes("NamespaceChanges", NamespaceFields, {})
    view = NamespaceView
    filters = filters("NamespaceFilters", NamespaceView)

    def check_id(self, record_id: object) -> str:
        return check_namespace(record_id)

    def namespace_of(self, record_id: str) -> str | None:
        return record_id

    def visible(self, user: User) -> dict[str, tuple[Scalar, ...]]:
        return {} if ANY_NAMESPACE in user.namespaces else {"id": user.namespaces}

    async def check_unused(self, record: Namespace) -> None:
        functions = await self.context.store.list_records(Function, where={"namespace": record.id}, limit=10)
        if functions:
            some = ", ".join(function.name for function in functions)
            raise ApiError(
                ErrorCode.IN_USE,
                f"the namespace {record.id} has functions ({some}): delete them first, or with it by ?force=true "
                "(--force)",
            )

        if secrets := await self.context.store.list_records(Secret, where={"namespace": record.id}, limit=10):
            some = ", ".join(secret.id for secret in secrets)
            raise ApiError(
                ErrorCode.IN_USE,
                f"the namespace {record.id} has secrets ({some}): delete them first, or with it by ?force=true "
                "(--force)",
            )

    async def check_new(self, record_id: str, query: Any) -> None:
        """Nobody belongs to a namespace that is made anew because they belonged to one of that name before."""
        context = self.context
        if await context.store.get_record(Namespace, record_id) is not None:
            return
        while users := await context.store.list_records(User, where={"namespaces": record_id}, limit=100):
            for user in users:
                others = tuple(name for name in user.namespaces if name != record_id)
                now = round(time.time(), 6)
                changed = replace(user, namespaces=others, version=user.version + 1, modified=now)
                if await context.store.replace_record(changed, version=user.version):
                    context.accounts.forget(user.id)
                    logger.warning("user %s is not a member of the new namespace %s, as of the old", user.id, record_id)

    async def dependents(self, record: Namespace) -> Sequence[tuple[Resource[Any], Record]]:
        """Its functions and secrets go with it."""
        store, own = self.context.store, {"namespace": record.id}
        functions, secrets = Functions(self.context), Secrets(self.context)
        return [
            *((functions, function) for function in await store.list_records(Function, where=own, limit=None)),
            *((secrets, secret) for secret in await store.list_records(Secret, where=own, limit=None)),
        ]


class NamespaceAdminHandler(AdminHandler[Namespace]):
    """`/admin/namespaces/ID`: one namespace."""

    resource = Namespaces

    async def _delete(self, user: User, record_id: str, query: ForceQuery) -> str:
        deleted = await super()._delete(user, record_id, query)
        await Secrets(self.context).written(f"{deleted}/")  # its secrets have gone with it
        return deleted


class NamespacesAdminHandler(AdminListHandler[Namespace]):
    """`/admin/namespaces/`: all namespaces."""

    resource = Namespaces
