"""`alerts …`: what is the matter, who gets to know, and whether it reached them."""

from __future__ import annotations

import asyncio
import secrets
import time
from typing import Any

from dts.errors import ClientError
from dts.management.api.resources import Record
from dts.management.client import AdminClient
from dts.management.commands.records import RecordKind, commands_of
from dts.management.shell.arguments import LIMIT, Arguments
from dts.management.shell.fields import Field, Kind
from dts.management.shell.grammar import command
from dts.management.shell.output import Column, limit_of
from dts.management.shell.session import Session

_PATIENCE = 30.0
"""Seconds that `alerts test` waits for the notices to arrive: a mail server takes one within a few."""

_POLL = 0.5
_AN_HOUR = 3600.0

_NOTICES = (
    Column("id", "notice"),
    Column("state"),
    Column("to"),
    Column("title"),
    Column("attempts", right=True),
    Column("created"),
    Column("error"),
)
KINDS = (
    *("silent", "cpu", "memory", "disk", "load", "childless", "queue", "queue_age", "failures", "dead", "log"),
    *("run_finished", "run_failed", "broker", "store", "certificate", "space"),
)
"""What rules can look at, as the server knows it; a test compares."""

_STATES = ("waiting", "sending", "sent", "failed", "unconfirmed")


_ALERTS = (
    Column("id", "alert"),
    Column("severity"),
    Column("since"),
    Column("title"),
    Column("value", right=True),
    Column("count", right=True),
    Column("silenced"),
)
_NAMES = (
    Field("hosts", Kind.LIST, "for these hosts; * and ? stand for what varies"),
    Field("groups", Kind.LIST, "for hosts of these groups, or whose workers serve these routes"),
    Field("functions", Kind.LIST, "for these functions, such as crm/*"),
)

_SILENCED = (
    *_NAMES,
    Field("rules", Kind.LIST, "for alerts of these rules"),
    Field("description", Kind.TEXT, "why"),
)

RULES = RecordKind(
    noun="alerts rules",
    one="rule",
    fields=(
        Field("kind", Kind.TEXT, "what it looks at", choices=KINDS, updatable=False),
        Field("threshold", Kind.NUMBER, "the figure at which it is the matter", optional=True),
        Field("clear", Kind.NUMBER, "the figure beyond which it is over", optional=True),
        Field("lasting", Kind.SECONDS, "for how long it must be so before anybody is notified", optional=True),
        Field("repeat", Kind.SECONDS, "after how long the notice is repeated; 0: never", optional=True),
        *_NAMES,
        Field("level", Kind.INTEGER, "of log records, the lowest: 30 is a warning, 40 an error"),
        Field("pattern", Kind.TEXT, "of log records: a regular expression"),
        Field("target", Kind.TEXT, "a folder, or the file or host:port of a certificate"),
        Field("notify", Kind.LIST, "who: mail addresses, URLs, user:ID, role:NAME, namespace:NAME, default"),
        Field("severity", Kind.TEXT, "how bad it is", choices=("info", "warning", "critical")),
        Field("enabled", Kind.BOOLEAN, "whether it notifies; no: what it matches is no alert"),
        Field("description", Kind.TEXT, "what it is for"),
    ),
    columns=(
        Column("id", "rule"),
        Column("kind"),
        Column("threshold", right=True),
        Column("lasting", right=True),
        Column("hosts"),
        Column("groups"),
        Column("functions"),
        Column("notify"),
        Column("enabled"),
    ),
    filters=(
        Field("kind", Kind.TEXT, "what it looks at", choices=KINDS),
        Field("hosts", Kind.TEXT, "one of the hosts"),
    ),
    example="gpu-disk kind=disk threshold=80 lasting=5m groups=gpu notify=role:operator",
    change="gpu-disk threshold=85",
    selection="kind=disk",
    resource="alerts.rules",
)

SILENCES = RecordKind(
    noun="alerts silences",
    one="silence",
    fields=(
        Field("starts", Kind.TIME, "when it begins"),
        Field("ends", Kind.TIME, "when it ends"),
        Field("every", Kind.SECONDS, "after how long it comes again, such as 7d", optional=True),
        *_SILENCED,
    ),
    columns=(
        Column("id", "silence"),
        Column("starts"),
        Column("ends"),
        Column("every", right=True),
        Column("hosts"),
        Column("groups"),
        Column("functions"),
        Column("rules"),
        Column("description"),
    ),
    filters=(Field("hosts", Kind.TEXT, "one of the hosts"),),
    example="night starts=2026-12-01T02:00 ends=2026-12-01T04:00 every=1d hosts=backup1",
    change="night ends=2026-12-01T05:00",
    selection="hosts=backup1",
    resource="alerts.silences",
)


@command(
    "alerts list",
    "[phase=PHASE]",
    fields=(Field("phase", Kind.TEXT, "how far it is", choices=("firing", "pending")),),
    flags=(LIMIT,),
    examples=("alerts list", "alerts list phase=pending"),
)
async def list_alerts(session: Session, arguments: Arguments) -> None:
    """List what is the matter now: alerts that are firing, or with phase=pending what may become one."""
    output = session.output(arguments)
    limit = limit_of(arguments.number(LIMIT), as_json=output.as_json)
    pages = (await session.client()).alerts.pages(limit=limit, **arguments.values)
    await output.rows(pages, _ALERTS, limit=limit, what="alerts")


@command(
    "alerts silence",
    "[FIELD=VALUE …]",
    fields=(
        Field("during", Kind.SECONDS, "for how long, such as 2h"),
        *_NAMES,
        Field("rules", Kind.LIST, "for alerts of these rules"),
        Field("description", Kind.TEXT, "why"),
    ),
    examples=("alerts silence during=2h hosts=worker1 description='new disk'",),
)
async def silence(session: Session, arguments: Arguments) -> None:
    """Have alerts notify nobody for a while from now, an hour unless told: those that are named, or all.

    What is still the matter afterwards is notified then.
    """
    now, fields = time.time(), dict[str, Any](arguments.values)
    fields |= {"starts": now, "ends": now + fields.pop("during", _AN_HOUR)}
    client = await session.client()
    record = await client.alerts.silences.add(f"silence-{secrets.token_hex(4)}", **fields)
    output = session.output(arguments)
    output.say(f"silence {record['id']}: alerts silences delete {record['id']} ends it")
    if output.as_json:
        output.record(record)


@command(
    "alerts test",
    "[RECIPIENT …]",
    words=(0, 50),
    examples=("alerts test", "alerts test ops@example.com https://hooks.example/dts"),
)
async def test(session: Session, arguments: Arguments) -> int:
    """Send a notice to recipients, or else to those in [mail] to, and say what became of it.

    A recipient is a mail address, the URL of a webhook, user:ID, role:NAME or namespace:NAME. Exit status 1 when one
    was not reached within 30 seconds.
    """
    client, output = await session.client(), session.output(arguments)
    begun = await client.alerts.test(arguments.words)
    if not begun["notices"]:
        raise ClientError("there is nobody to notify: name a recipient, or set [mail] host and to")
    rows = await _arrived(client, begun)
    if output.as_json:
        for row in rows:
            output.record(row)
    else:
        for row in rows:
            output.say(f"{row['to']}: {row['state']}" + (f" ({row['error']})" if row["error"] else ""))
    return 0 if all(row["state"] == "sent" for row in rows) else 1


async def _arrived(client: AdminClient, begun: Record) -> list[Record]:
    """The notices of a test, when each was sent or has failed, or after a while."""
    deadline = time.monotonic() + _PATIENCE
    while True:
        rows = await client.alerts.outcome(begun["id"])
        ended = [row for row in rows if row["state"] in ("sent", "failed", "unconfirmed")]
        if len(ended) == begun["notices"] or time.monotonic() > deadline:
            return rows
        await asyncio.sleep(_POLL)


@command(
    "alerts notices",
    "[state=STATE]",
    fields=(Field("state", Kind.TEXT, "what became of it", choices=_STATES),),
    flags=(LIMIT,),
    examples=("alerts notices", "alerts notices state=failed"),
)
async def notices(session: Session, arguments: Arguments) -> None:
    """List notices, newest first: waiting, sent, failed, or unconfirmed since their process died while it sent them."""
    output = session.output(arguments)
    limit = limit_of(arguments.number(LIMIT), as_json=output.as_json)
    pages = (await session.client()).alerts.notices.pages(limit=limit, **arguments.values)
    await output.rows(pages, _NOTICES, limit=limit, what="notices")


@command("alerts secret", "URL", words=(1, 1), examples=("alerts secret https://hooks.example/dts",))
async def show_secret(session: Session, arguments: Arguments) -> None:
    """Show what the receiver of a webhook verifies the signatures of alerts with (Standard Webhooks, whsec_…)."""
    found = await (await session.client()).alerts.secret(arguments.word(0))
    output = session.output(arguments)
    if output.as_json:
        output.record({"secret": found})
    else:
        output.say(found)


COMMANDS = (list_alerts, *commands_of(RULES), silence, *commands_of(SILENCES), test, notices, show_secret)
