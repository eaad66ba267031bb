"""`/admin/hosts/` and `/admin/logs/`: what is heard of the workers."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from dts.model import LogFilter, User
from dts.model.ranges import LEVEL, TIME
from dts.server.handlers._base import DtsHandler, PageQuery, authorized
from dts.server.handlers.admin.fields import given
from dts.server.handlers.declare import declares

Since = Annotated[float, Meta(ge=TIME.low, le=1e12)]


class HeartbeatView(Struct):
    """The last heartbeat of a worker. Percentages are of its host; `load` is that of a minute."""

    worker: str
    host: str
    time: float
    pid: int
    version: str
    started: float
    routes: list[str]
    cpu: float
    memory: float
    disk: float
    load: float
    children: int
    jobs_running: int
    state: str
    functions: dict[str, dict[str, int]]
    running: list[dict[str, Any]]


class HostsQuery(Struct, forbid_unknown_fields=True, kw_only=True):
    """Which workers: those of a host, those that were heard of since a time."""

    host: str | UnsetType = UNSET
    since: Since = 0.0


class LogView(Struct):
    """A log record. `level` is as in Python's logging module."""

    id: str
    host: str
    source: str
    time: float
    level: int
    logger: str
    message: str
    job: str


class LogsQuery(PageQuery, forbid_unknown_fields=True, kw_only=True):
    """Which log records; `level` is the lowest."""

    host: str | UnsetType = UNSET
    source: str | UnsetType = UNSET
    logger: str | UnsetType = UNSET
    job: str | UnsetType = UNSET
    level: Annotated[int, Meta(ge=int(LEVEL.low), le=int(LEVEL.high))] | UnsetType = UNSET
    since: Since | UnsetType = UNSET
    until: Since | UnsetType = UNSET


class HostsAdminHandler(DtsHandler):
    """`/admin/hosts/`: workers, by host."""

    @authorized
    @declares(answer=list[HeartbeatView], query=HostsQuery)
    async def get(self, user: User) -> None:
        """The last heartbeat of every worker."""
        query = self.query(HostsQuery)
        states = await self.context.store.list_heartbeats(since=query.since)
        self.answer(
            [
                msgspec.convert(state, HeartbeatView, from_attributes=True)
                for state in states
                if isinstance(query.host, UnsetType) or state.host == query.host
            ]
        )


class LogsAdminHandler(DtsHandler):
    """`/admin/logs/`: log records of the fleet."""

    @authorized
    @declares(answer=list[LogView], query=LogsQuery)
    async def get(self, user: User) -> None:
        """Log records that match, newest first."""
        which = given(self.query(LogsQuery))
        limit, after = which.pop("limit"), which.pop("after")
        entries = await self.context.store.list_logs(LogFilter(**which), limit=limit, after=after)
        self.answer([msgspec.convert(entry, LogView, from_attributes=True) for entry in entries])
