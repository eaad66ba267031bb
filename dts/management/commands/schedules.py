"""`schedules …`: what DTS submits at given times, on behalf of a user."""

from __future__ import annotations

from dts.management.commands.records import RecordKind, commands_of
from dts.management.shell.arguments import LIMIT, Arguments
from dts.management.shell.fields import Field, Kind
from dts.management.shell.grammar import command
from dts.management.shell.output import Column, limit_of
from dts.management.shell.session import Session
from dts.management.utils import format_time

_OVERLAP = ("skip", "queue", "cancel", "allow")

SCHEDULES = RecordKind(
    noun="schedules",
    one="schedule",
    fields=(
        Field("function", Kind.TEXT, "what it runs", ids="functions"),
        Field("user", Kind.TEXT, "whose jobs these are; yours unless given", ids="users"),
        Field("cron", Kind.TEXT, "minute hour day month weekday, such as '0 2 * * *'", optional=True),
        Field("tz", Kind.TEXT, "the time zone of cron, such as Europe/Berlin (default: UTC)"),
        Field("every", Kind.SECONDS, "the time between two firings, in place of cron", optional=True),
        Field("at", Kind.TIME, "when it fires once, in place of cron", optional=True),
        Field("jitter", Kind.SECONDS, "by how much a firing is delayed at most, so that not all come at once"),
        Field(
            "overlap",
            Kind.TEXT,
            "what to do while the last run is at work",
            choices=_OVERLAP,
        ),
        Field("catch_up", Kind.SECONDS, "how late a firing may be, as after an outage (default: 1h)"),
        Field("paused", Kind.BOOLEAN, "does not fire while it is"),
        Field("description", Kind.TEXT, "what it is for"),
        Field("args", Kind.ARRAY, "the arguments of its job", optional=True),
        Field("kwargs", Kind.OBJECT, "the keyword arguments of its job", optional=True),
        Field("lines", Kind.LINES, "a file: one job for each of its lines, as it is now", optional=True, also="file"),
    ),
    columns=(
        Column("id", "schedule"),
        Column("function"),
        Column("user"),
        Column("cron"),
        Column("tz"),
        Column("every", right=True),
        Column("paused"),
        Column("next", show=lambda times: format_time(times[0]) if times else "–"),
    ),
    filters=(
        Field("user", Kind.TEXT, "whose", ids="users"),
        Field("function", Kind.TEXT, "of which function", ids="functions"),
        Field("paused", Kind.BOOLEAN, "whether paused"),
    ),
    example="nightly cron='0 2 * * *' tz=Europe/Berlin function=text/upper args='[\"a\"]'",
    change="nightly cron='30 3 * * 1-5'",
    selection="user=alice",
    reads=("next", "created", "modified", "version"),
)

_FIRINGS = (
    Column("time"),
    Column("state"),
    Column("run"),
    Column("reason"),
    Column("by"),
)


@command("schedules pause", "ID", words=(1, 1), examples=("schedules pause nightly",), ids="schedules")
async def pause(session: Session, arguments: Arguments) -> None:
    """Pause a schedule: it does not fire until it is resumed, and what would have been meanwhile is not caught up."""
    await _set_paused(session, arguments, "paused", paused=True)


@command("schedules resume", "ID", words=(1, 1), examples=("schedules resume nightly",), ids="schedules")
async def resume(session: Session, arguments: Arguments) -> None:
    """Resume a paused schedule: it fires at the times that come from now on."""
    await _set_paused(session, arguments, "resumed", paused=False)


@command("schedules fire", "ID", words=(1, 1), examples=("schedules fire nightly",), ids="schedules")
async def fire(session: Session, arguments: Arguments) -> None:
    """Fire a schedule now, whatever its times, also while it is paused or its last run is at work."""
    schedule_id = arguments.word(0)
    firing = await (await session.client()).schedules.fire(schedule_id)
    output = session.output(arguments)
    output.say(f"schedule {schedule_id} fired: run {firing['run']}")
    if output.as_json:
        output.record(firing)


@command("schedules next", "ID", words=(1, 1), examples=("schedules next nightly",), ids="schedules")
async def show_next(session: Session, arguments: Arguments) -> None:
    """Show the next five times at which a schedule fires, in this machine's time zone."""
    schedule = await (await session.client()).schedules.get(arguments.word(0))
    output = session.output(arguments)
    output.table([{"time": time} for time in schedule["next"]], (Column("time"),))
    if not schedule["next"]:
        output.say("it is paused" if schedule["paused"] else "it does not fire any more")


@command(
    "schedules history",
    "ID",
    words=(1, 1),
    flags=(LIMIT,),
    examples=("schedules history nightly", "schedules history nightly --limit 5"),
    ids="schedules",
)
async def history(session: Session, arguments: Arguments) -> None:
    """List the firings of a schedule, newest first: which run each started, or why it started none."""
    output = session.output(arguments)
    limit = limit_of(arguments.number(LIMIT), as_json=output.as_json)
    pages = (await session.client()).schedules.firings(arguments.word(0)).pages(limit=limit)
    await output.rows(pages, _FIRINGS, limit=limit, what="firings")


async def _set_paused(session: Session, arguments: Arguments, done: str, *, paused: bool) -> None:
    schedule_id = arguments.word(0)
    record = await (await session.client()).schedules.update(schedule_id, paused=paused)
    output = session.output(arguments)
    output.say(f"schedule {schedule_id} {done}")
    if output.as_json:
        output.record(record)


COMMANDS = (*commands_of(SCHEDULES), pause, resume, fire, show_next, history)
