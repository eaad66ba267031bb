"""`/admin/routes/`: which routes are paused, and how many of their jobs may run at once."""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import replace

from msgspec import Struct, field

from dts.errors import DuplicateKey
from dts.model import Route, User, check_route_id
from dts.server.handlers.admin._base import AdminHandler, AdminListHandler, Resource
from dts.server.handlers.admin.fields import RouteLimits, Text, changes, filters, initial, view


class RouteFields(Struct, forbid_unknown_fields=True, kw_only=True):
    """What can be written and read of a route."""

    description: Text = ""
    limits: RouteLimits = field(default_factory=RouteLimits)
    paused: bool = False


RouteRecordView = view("RouteRecordView", RouteFields, {}, "A route as answered.")


class Routes(Resource[Route]):
    """Routes that something is set of."""

    name = "routes"
    kind = Route
    fields = RouteFields
    initial = initial("RouteInitial", RouteFields, {"id": str}, {})
    changes = changes("RouteChanges", RouteFields, {})
    view = RouteRecordView
    filters = filters("RouteFilters", RouteRecordView)

    def check_id(self, record_id: object) -> str:
        return check_route_id(record_id)


class RouteAdminHandler(AdminHandler[Route]):
    """`/admin/routes/ID`: one route, or all of them as `*`. A route that nothing is set of can be read and changed."""

    resource = Routes

    async def _find(self, user: User, record_id: str) -> Route:
        found = await self.context.store.get_record(Route, check_route_id(record_id))
        if found is None and self.request.method != "DELETE":
            return Route(record_id, version=0)
        return found or await super()._find(user, record_id)

    async def _current(self, user: User, record_id: str) -> Route:
        route = await super()._current(user, record_id)
        if not route.version and self.request.method == "PATCH":
            with suppress(DuplicateKey):
                await self.context.store.add_record(replace(route, created=round(time.time(), 6)))
        return route


class RoutesAdminHandler(AdminListHandler[Route]):
    """`/admin/routes/`: the routes that something is set of."""

    resource = Routes
