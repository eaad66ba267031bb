"""`/admin/functions/NS/FUNC/rollout`: which version is to be on which hosts, and how far that is."""

from __future__ import annotations

import time
from typing import Annotated

from msgspec import Meta, Struct

from dts.errors import InvalidInput
from dts.model import Function, User, VirtualHost
from dts.server.consts import ErrorCode
from dts.server.handlers._base import authorized
from dts.server.handlers.admin.function_versions import VersionHandler
from dts.server.handlers.declare import declares
from dts.server.handlers.errors import ApiError
from dts.server.handlers.recorded import operation_logger
from dts.server.hosts.rollouts import Rollout, get_rollout, list_hosts, start_rollout
from dts.server.hosts.select import MAX_NAMED, select_hosts

HostName = Annotated[str, Meta(max_length=64)]


class RolloutParams(Struct, forbid_unknown_fields=True, kw_only=True):
    """Which version is to be on which hosts: on those that are named, in a group, or on all.

    With a `canary` the others get it when it is on that one, and has passed its self-test there.
    """

    version: Annotated[str, Meta(max_length=64)]
    hosts: Annotated[list[HostName], Meta(max_length=MAX_NAMED)] = []
    group: HostName = ""
    all: bool = False
    canary: HostName = ""


class HostView(Struct, kw_only=True):
    """How far a host is: `held`, `due`, `unreachable`, `done` or `failed`, and why."""

    host: str
    version: str
    state: str
    error: str
    attempts: int
    modified: float


class RolloutView(Struct, kw_only=True):
    """A rollout as answered: `running`, `active` when new jobs run the version, or `failed`."""

    function: str
    version: str
    canary: str
    user: str
    created: float
    state: str
    hosts: list[HostView]


class RolloutHandler(VersionHandler):
    """`/admin/functions/NS/FUNC/rollout`: the latest rollout of a function."""

    name = "functions"

    @authorized
    @declares(answer=RolloutView)
    async def get(self, user: User, name: str) -> None:
        """How far it is."""
        function = await self.function(user, name)
        await self._answer_with(function)

    @authorized
    @declares(answer=RolloutView, body=RolloutParams, statuses=(202,))
    async def post(self, user: User, name: str) -> None:
        """Have a version on hosts; new jobs run it when it is on all that can be reached."""
        params = self.params(RolloutParams)
        function = await self.function(user, name)
        version = await self.version(function, params.version)
        hosts = [host.id for host in await self._hosts(params)]
        if params.canary and params.canary not in hosts:
            raise InvalidInput(f"the canary {params.canary[:64]} is none of the hosts")
        rollout = Rollout(function.name, version.hash, tuple(hosts), params.canary, user.id, round(time.time(), 3))
        self.on_record = {"version": version.hash, "hosts": hosts, "canary": params.canary}
        await self._start(user, function.name, rollout)
        await self._answer_with(function, status=202)

    async def _hosts(self, params: RolloutParams) -> list[VirtualHost]:
        if params.all:
            return await self.context.store.list_records(VirtualHost, limit=None)
        return await select_hosts(self.context.store, params.hosts, params.group)

    @operation_logger("functions.rollout")
    async def _start(self, user: User, name: str, rollout: Rollout) -> None:
        await start_rollout(self.context.store, rollout)

    async def _answer_with(self, function: Function, status: int = 200) -> None:
        rollout = await get_rollout(self.context.store, function.name)
        if rollout is None:
            raise ApiError(ErrorCode.NOT_FOUND, f"no version of {function.name} was rolled out to hosts yet")
        states = await list_hosts(self.context.store, function.name)
        hosts = [
            HostView(
                host=each.host,
                version=each.version,
                state=each.state,
                error=each.error,
                attempts=each.attempts,
                modified=each.modified,
            )
            for each in states
        ]
        view = RolloutView(
            function=rollout.function,
            version=rollout.version,
            canary=rollout.canary,
            user=rollout.user,
            created=rollout.created,
            state=rollout.state,
            hosts=hosts,
        )
        self.answer(view, status)
