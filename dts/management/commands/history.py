"""`hosts history` and `functions statistics`: how it was."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from dts.management.api.resources import Record
from dts.management.shell.arguments import Arguments
from dts.management.shell.fields import Field, Kind
from dts.management.shell.grammar import command
from dts.management.shell.output import Column
from dts.management.shell.session import Session

_FIGURES = ("cpu", "memory", "disk", "load", "children", "jobs_running")


def _two(value: Any) -> str:
    return "" if value is None else f"{value:.2f}"


def _seconds(value: Any) -> str:
    return "" if value is None else f"{value:.3g} s"


_HOST = (
    Column("time"),
    *(Column(name, show=_two, right=True) for name in _FIGURES),
    Column("max cpu", show=_two, right=True),
)
_FUNCTION = (
    Column("time"),
    Column("count", "attempts", right=True),
    Column("failed", right=True),
    Column("p50", show=_seconds, right=True),
    Column("p95", show=_seconds, right=True),
    Column("wait", "longest wait", show=_seconds, right=True),
)
_WHEN = (Field("since", Kind.TIME, "from when; an hour ago unless told"), Field("until", Kind.TIME, "until when; now"))


@command(
    "hosts history",
    "HOST [FIELD=VALUE …]",
    words=(1, 1),
    fields=(*_WHEN, Field("resolution", Kind.TEXT, "how fine", choices=("auto", "raw", "minute", "hour"))),
    examples=("hosts history worker1", "hosts history worker1 since=2026-11-27T00:00 resolution=hour"),
)
async def host_history(session: Session, arguments: Arguments) -> None:
    """Show how a host was: every 5 seconds for six hours, by the minute for a week, by the hour for a year."""
    found = await (await session.client()).hosts.history(arguments.word(0), **arguments.values)
    rows = [{"time": row["time"], **row["mean"], "max cpu": row["max"]["cpu"]} for row in found["rows"]]
    await session.output(arguments).rows(_one_page(rows), _HOST, limit=None, what="rows")


@command(
    "functions statistics",
    "FUNCTION [FIELD=VALUE …]",
    words=(1, 1),
    fields=(*_WHEN, Field("step", Kind.SECONDS, "of a row, from 1m")),
    examples=("functions statistics text/upper", "functions statistics text/upper since=2026-11-01 step=1d"),
    ids="functions",
)
async def function_statistics(session: Session, arguments: Arguments) -> None:
    """Show what became of a function's attempts, by the minute: how many, how many failed, how long they took."""
    values = dict(arguments.values)
    if "step" in values:
        values["step"] = int(float(str(values["step"])))
    found = await (await session.client()).statistics(arguments.word(0), **values)
    await session.output(arguments).rows(_one_page(found["rows"]), _FUNCTION, limit=None, what="rows")


async def _one_page(rows: list[Record]) -> AsyncIterator[list[Record]]:
    if rows:
        yield rows


COMMANDS = (host_history, function_statistics)
