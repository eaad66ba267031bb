"""`/admin/functions/`: registered code, and how it is run."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated

from msgspec import Meta, Struct, field

from dts.errors import InvalidName
from dts.model import (
    ANY_NAMESPACE,
    DEFAULT_PRIORITY,
    DEFAULT_ROUTE,
    Function,
    Namespace,
    User,
    check_namespace,
    parse_function_name,
)
from dts.server import plugins
from dts.server.consts import ErrorCode
from dts.server.handlers import validation_messages
from dts.server.handlers.admin._base import AdminHandler, AdminListHandler, Resource
from dts.server.handlers.admin.fields import (
    ForceQuery,
    FunctionLimits,
    Limited,
    RouteName,
    Text,
    changes,
    filters,
    initial,
    view,
)
from dts.server.handlers.errors import ApiError
from dts.server.intake.options import with_attempt_options
from dts.server.versions import library
from dts.store.contract.records import Scalar
from dts.wire.numbers import Priority, Seconds

VersionHash = Annotated[str, Meta(pattern=validation_messages.VERSION)]

_LEFT_ROUTES = 8  # that are remembered of a function


@with_attempt_options
class FunctionFields(Limited, kw_only=True):
    """What can be written and read of a function, the options of attempts besides. Null is for the worker's default."""

    description: Text = ""
    route: RouteName = DEFAULT_ROUTE
    enabled: bool = True
    deployed: VersionHash = ""
    pinned: VersionHash = ""
    paused: bool = False
    priority: Priority = DEFAULT_PRIORITY
    limits: FunctionLimits = field(default_factory=FunctionLimits)
    memo: Seconds | None = None
    unique: Seconds | None = None


FunctionView = view(
    "FunctionView",
    FunctionFields,
    {"namespace": str, "mean_duration": float | None},
    "A function as answered.",
)


class Functions(Resource[Function]):
    """Functions."""

    name = "functions"
    kind = Function
    fields = FunctionFields
    initial = initial("FunctionInitial", FunctionFields, {"id": str}, {})
    changes = changes("FunctionChanges", FunctionFields, {})
    view = FunctionView
    filters = filters("FunctionFilters", FunctionView)

    def check_id(self, record_id: object) -> str:
        name = parse_function_name(record_id)
        check_namespace(name.namespace)
        return str(name)

    def namespace_of(self, record_id: str) -> str | None:
        try:
            return parse_function_name(record_id).namespace
        except InvalidName:
            return None  # there can be no such function, which is what the caller will be told

    def changed(self, record: Function, params: Struct, now: float) -> Function:
        after = super().changed(record, params, now)
        if after.route == record.route:
            return after
        left = [route for route in (record.route, *record.left_routes) if route != after.route]
        return replace(after, left_routes=tuple(dict.fromkeys(left))[:_LEFT_ROUTES])

    def visible(self, user: User) -> dict[str, tuple[Scalar, ...]]:
        return {} if ANY_NAMESPACE in user.namespaces else {"namespace": user.namespaces}

    async def check_allowed(self, record: Function, before: Function | None) -> None:
        by_key = record.limits.key_running, record.limits.key_starts_per_second
        if record.limits.key is None and by_key != (None, None):
            raise ApiError(ErrorCode.ARGUMENT_INVALID, "limits: key_running and the like need a key")
        if record.soft_timeout is not None and record.timeout is not None and record.soft_timeout >= record.timeout:
            raise ApiError(ErrorCode.ARGUMENT_INVALID, "soft_timeout must be less than timeout")
        if record.route == plugins.ROUTE:
            raise ApiError(ErrorCode.ARGUMENT_INVALID, f"the route {record.route} is the server's own")
        await self._check_versions(record, before)
        if await self.context.store.get_record(Namespace, record.namespace) is None:
            raise ApiError(
                ErrorCode.NAMESPACE_NOT_FOUND, f"there is no namespace {record.namespace}: make it before {record.name}"
            )

    async def _check_versions(self, record: Function, before: Function | None) -> None:
        known = {before.deployed, before.pinned} if before is not None else set()
        for version in {record.deployed, record.pinned} - known - {""}:
            await library.resolve(self.context.store, record.name, version)

    async def check_unused(self, record: Function) -> None:
        if unfinished := await self.context.store.count_unfinished(function=record.name):
            raise ApiError(
                ErrorCode.IN_USE,
                f"the function {record.name} has {unfinished} unfinished jobs: cancel them first, or delete it all the "
                "same with ?force=true (--force)",
            )


class FunctionAdminHandler(AdminHandler[Function]):
    """`/admin/functions/ns/func`: one function."""

    resource = Functions

    async def _delete(self, user: User, record_id: str, query: ForceQuery) -> str:
        deleted = await super()._delete(user, record_id, query)
        await library.drop_versions(self.context.store, deleted)
        return deleted


class FunctionsAdminHandler(AdminListHandler[Function]):
    """`/admin/functions/`: all functions."""

    resource = Functions
