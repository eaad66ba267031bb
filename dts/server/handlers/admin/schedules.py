"""`/admin/schedules/`: what is submitted at given times, on behalf of whom."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from dts.model import Schedule, User, check_schedule_id
from dts.server.access.accounts import Caller
from dts.server.access.reach import why_not
from dts.server.consts import ErrorCode
from dts.server.handlers._base import DtsHandler, PageQuery, authorized
from dts.server.handlers.admin._base import AdminHandler, AdminListHandler, Resource
from dts.server.handlers.admin.fields import Text, changes, filters, initial, view
from dts.server.handlers.declare import declares
from dts.server.handlers.errors import ApiError
from dts.server.handlers.recorded import operation_logger
from dts.server.intake.ingest import Arguments, check_arguments
from dts.server.unattended.firing import FIRINGS, Became, Firing, decode_work, encode_work, firing_id
from dts.server.unattended.scheduler import wake
from dts.server.unattended.timetable import check_timetable, next_times
from dts.wire.numbers import Time, Wait

_SHOWN = 5
"""Times to come that an answer has."""

_MAX_LINES = 1_000_000
"""Characters of lines that a schedule may submit: its record is read each time it fires."""

_TIMING = ("cron", "tz", "every", "at", "jitter")

_WORK: dict[str, Any] = {
    "args": list[Any],
    "kwargs": dict[str, Any],
    "lines": Annotated[str, Meta(max_length=_MAX_LINES)],
}
"""What is submitted: one job with `args` and `kwargs`, or one job for each of `lines`."""


class ScheduleFields(Struct, forbid_unknown_fields=True, kw_only=True):
    """What can be written and read of a schedule. One of cron, every and at says when it fires."""

    function: Annotated[str, Meta(max_length=129)] = ""
    user: Annotated[str, Meta(max_length=64)] = ""
    cron: Annotated[str, Meta(max_length=200)] = ""
    tz: Annotated[str, Meta(max_length=100)] = "UTC"
    every: Annotated[float, Meta(ge=1, le=1e9)] | None = None
    at: Time | None = None
    jitter: Wait = 0.0
    overlap: Literal["skip", "queue", "cancel", "allow"] = "skip"
    catch_up: Wait = 3600.0
    paused: bool = False
    description: Text = ""


ScheduleView = view(
    "ScheduleView",
    ScheduleFields,
    {"next": list[float], "args": list[Any] | None, "kwargs": dict[str, Any] | None, "lines": int | None},
    "A schedule as answered: with the next five times at which it fires, and how many lines it submits.",
)


class FiringView(Struct, omit_defaults=True):
    """A firing: of which time, what became of it, and its run if it has one. `by` is who asked for it, if someone did.

    `state` is `started`, `skipped`, `refused` or `missed`; `reason` says why there is no run.
    """

    id: str
    time: float
    noted: float
    state: Became
    run: str | UnsetType = UNSET
    reason: str | UnsetType = UNSET
    by: str | UnsetType = UNSET


class Schedules(Resource[Schedule]):
    """Schedules."""

    name = "schedules"
    kind = Schedule
    fields = ScheduleFields
    initial = initial("ScheduleInitial", ScheduleFields, {"id": str}, _WORK)
    changes = changes("ScheduleChanges", ScheduleFields, {name: kind | None for name, kind in _WORK.items()})
    view = ScheduleView
    filters = filters("ScheduleFilters", ScheduleView, without={"next", "args", "kwargs", "lines"})
    write_only = frozenset(_WORK)
    caller = ""
    """Whose schedule a new one is, unless it names another user."""

    def check_id(self, record_id: object) -> str:
        return check_schedule_id(record_id)

    def build(self, record_id: str, params: Struct, now: float) -> Schedule:
        record = super().build(record_id, params, now)
        return replace(record, user=record.user or self.caller)

    def write_secrets(self, record: Schedule, secrets: Mapping[str, Any]) -> Schedule:
        if not secrets:
            return record
        lines = secrets.get("lines")
        if lines is not None and (secrets.get("args") or secrets.get("kwargs")):
            raise ApiError(ErrorCode.ARGUMENT_INVALID, "give args and kwargs of one job, or lines, not both")
        before = decode_work(record.work)
        args, kwargs = (secrets.get(name, before.get(name)) for name in ("args", "kwargs"))
        return replace(record, work=encode_work(args, kwargs, lines))

    async def check_allowed(self, record: Schedule, before: Schedule | None) -> None:
        changed = {name for name in ScheduleFields.__struct_fields__ if before is None or _differ(name, record, before)}
        if changed & {*_TIMING}:
            check_timetable(record, self.context.store.now())
        if changed & {"user", "function"}:
            user = await self.context.store.get_user(record.user)
            if reason := await why_not(self.context.catalogue, user, record.function):
                raise ApiError(ErrorCode.ARGUMENT_INVALID, f"{record.user} may not run {record.function!r}: {reason}")
        work = decode_work(record.work)
        if not work.get("lines", True):
            raise ApiError(ErrorCode.ARGUMENT_INVALID, "lines has no line: give at least one")
        if "args" in work:
            encode = msgspec.json.encode
            sent = Arguments(encode(work["args"]), encode(work["kwargs"]))
            check_arguments(sent.args, sent.kwargs, "params")

    async def written(self, record_id: str) -> None:
        await wake(self.context.store, record_id)

    def extra(self, record: Schedule) -> dict[str, Any]:
        work = decode_work(record.work)
        lines = work.get("lines")
        return {
            "next": next_times(record, self.context.store.now(), _SHOWN),
            "args": work.get("args"),
            "kwargs": work.get("kwargs"),
            "lines": None if lines is None else len(lines),
        }


class ScheduleAdminHandler(AdminHandler[Schedule]):
    """`/admin/schedules/ID`: one schedule."""

    resource = Schedules


class SchedulesAdminHandler(AdminListHandler[Schedule]):
    """`/admin/schedules/`: all schedules."""

    resource = Schedules

    async def check_rights(self, caller: Caller) -> None:
        """Make sure that the caller may make this request, and note whose a new schedule is."""
        await super().check_rights(caller)
        assert isinstance(self.records, Schedules)
        self.records.caller = caller.user.id


class Now(Struct):
    """A firing that is asked for has no fields."""


class _OneScheduleHandler(DtsHandler):
    """What can be done with one schedule besides reading and writing it."""

    async def schedule(self, schedule_id: str) -> Schedule:
        """The schedule of that id.

        Raises:
            ApiError: there is none.
        """
        schedule = await self.context.store.get_record(Schedule, schedule_id)
        if schedule is None:
            raise ApiError(ErrorCode.NOT_FOUND, f"there is no {schedule_id[:80]!r} among the schedules")
        return schedule


class FireAdminHandler(_OneScheduleHandler):
    """`/admin/schedules/ID/fire`: a firing out of turn."""

    @authorized
    @declares(answer=FiringView, errors=(ErrorCode.LIMIT_EXCEEDED,))
    async def post(self, user: User, schedule_id: str) -> None:
        """Fire the schedule now, also while it is paused or its last run is at work."""
        self.answer(await self._fire_on_record(user, schedule_id, Now()))

    @operation_logger("schedules.fire")
    async def _fire_on_record(self, user: User, schedule_id: str, ops: Now) -> FiringView:
        schedule = await self.schedule(schedule_id)
        context, now = self.context, round(self.context.store.now(), 3)
        fired = await Firing(context.store, context.broker, context.catalogue).fire(schedule, now, by=user.id)
        if fired.became is Became.REFUSED:
            raise ApiError(ErrorCode.FORBIDDEN, f"the schedule {schedule_id} did not fire: {fired.reason}")
        self.on_record = {"run": fired.run}
        return FiringView(firing_id(schedule_id, now), now, now, fired.became, fired.run, by=user.id)


class FiringsAdminHandler(_OneScheduleHandler):
    """`/admin/schedules/ID/firings`: the history of a schedule."""

    @authorized
    @declares(answer=list[FiringView], query=PageQuery)
    async def get(self, user: User, schedule_id: str) -> None:
        """Firings of the schedule, newest first."""
        query = self.query(PageQuery)
        schedule = await self.schedule(schedule_id)
        found = await self.context.store.list_documents(
            FIRINGS, group=schedule.id, after=query.after, limit=query.limit, newest_first=True
        )
        self.answer([msgspec.convert({"id": entry.id, **entry.data}, FiringView) for entry in found])


def _differ(name: str, record: Schedule, before: Schedule) -> bool:
    return bool(getattr(record, name) != getattr(before, name))
