"""`alerts …`: what is the matter, who gets to know, and whether it reached them."""

from __future__ import annotations

import asyncio
import time

from dts.errors import ClientError
from dts.management.api.resources import Record
from dts.management.client import AdminClient
from dts.management.shell.arguments import LIMIT, Arguments
from dts.management.shell.fields import Field, Kind
from dts.management.shell.grammar import command
from dts.management.shell.output import Column, limit_of
from dts.management.shell.session import Session

_PATIENCE = 30.0
"""Seconds that `alerts test` waits for the notices to arrive: a mail server takes one within a few."""

_POLL = 0.5

_NOTICES = (
    Column("id", "notice"),
    Column("state"),
    Column("to"),
    Column("title"),
    Column("attempts", right=True),
    Column("created"),
    Column("error"),
)
_STATES = ("waiting", "sending", "sent", "failed", "unconfirmed")


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
async def secret(session: Session, arguments: Arguments) -> None:
    """Show what the receiver of a webhook verifies the signatures of alerts with (Standard Webhooks, whsec_…)."""
    found = await (await session.client()).alerts.secret(arguments.word(0))
    output = session.output(arguments)
    if output.as_json:
        output.record({"secret": found})
    else:
        output.say(found)


COMMANDS = (test, notices, secret)
