"""`/admin/hosts/ID/history` and `/admin/statistics/`: how hosts were, and what became of functions' attempts."""

from __future__ import annotations

from typing import Annotated, Literal
from urllib.parse import unquote

from msgspec import Meta, Struct

from dts.model import User
from dts.server.consts import ErrorCode
from dts.server.handlers._base import DtsHandler, authorized
from dts.server.handlers.declare import declares
from dts.server.handlers.errors import ApiError
from dts.server.history.functions import KEEP, STEP, FunctionRow, function_history
from dts.server.history.hosts import MAX_ROWS, RESOLUTIONS, HostRow, host_history, resolution_for

Moment = Annotated[float, Meta(ge=0, le=1e12)]
_HOURS = 3600.0
_USUAL_ROWS = 1440


class HostHistoryQuery(Struct, forbid_unknown_fields=True, kw_only=True):
    """From when to when, in seconds since the epoch; the last hour by default. How fine: what that time allows."""

    since: Moment | None = None
    until: Moment | None = None
    resolution: Literal["auto", "raw", "minute", "hour"] = "auto"


class HostHistoryView(Struct):
    """How a host was. `resolution` says how fine: 5 seconds (raw), a minute, an hour."""

    host: str
    resolution: str
    rows: list[HostRow]


class StatisticsQuery(Struct, forbid_unknown_fields=True, kw_only=True):
    """Which function, from when to when, in seconds since the epoch, and in rows of how many seconds."""

    function: str
    since: Moment | None = None
    until: Moment | None = None
    step: Annotated[int, Meta(ge=STEP, le=30 * 86400)] | None = None


class FunctionHistoryView(Struct):
    """What became of a function's attempts, in rows of `step` seconds; there is none for a time without any."""

    function: str
    step: int
    rows: list[FunctionRow]


class HostHistoryAdminHandler(DtsHandler):
    """`/admin/hosts/ID/history`: how one host was."""

    @authorized
    @declares(answer=HostHistoryView, query=HostHistoryQuery)
    async def get(self, user: User, host: str) -> None:
        """Cpu, memory, disk, load, children and running jobs over time, from the workers' heartbeats."""
        query, store = self.query(HostHistoryQuery), self.context.store
        now = store.now()
        until = now if query.until is None else query.until
        since = _since(query.since, until, _HOURS)
        by_name = {resolution.name: resolution for resolution in RESOLUTIONS}
        resolution = by_name.get(query.resolution) or resolution_for(since, until, now)
        since = max(since, until - resolution.step * MAX_ROWS)
        rows = await host_history(store, unquote(host), resolution, since=since, until=until)
        self.answer(HostHistoryView(unquote(host), resolution.name, rows))


class StatisticsAdminHandler(DtsHandler):
    """`/admin/statistics/`: what became of one function's attempts."""

    @authorized
    @declares(answer=FunctionHistoryView, query=StatisticsQuery)
    async def get(self, user: User) -> None:
        """Attempts, failed ones, durations (median, 95th percentile) and the longest wait by the minute or longer."""
        query, store = self.query(StatisticsQuery), self.context.store
        until = store.now() if query.until is None else query.until
        since = _since(query.since, until, _HOURS)
        since = max(since, until - KEEP)
        step = query.step or max(STEP, int((until - since) / _USUAL_ROWS // STEP * STEP))
        if (until - since) / step > 10 * _USUAL_ROWS:
            raise ApiError(ErrorCode.ARGUMENT_INVALID, f"step: {step} s are too few for so long a time: give more")
        rows = await function_history(store, query.function, since=since, until=until, step=step)
        self.answer(FunctionHistoryView(query.function, step, rows))


def _since(since: float | None, until: float, usual: float) -> float:
    found = until - usual if since is None else since
    if found > until:
        raise ApiError(ErrorCode.ARGUMENT_INVALID, "since: it must be before until")
    return max(0.0, found)
