"""Sends a notice to mail addresses, webhooks, users, or all users of a role or a namespace."""

from __future__ import annotations

from collections.abc import Sequence

from dts.model import new_id
from dts.server.context import Context
from dts.server.notify.notice import Notice
from dts.server.notify.recipients import check_recipient


async def main(context: Context, to: Sequence[str] | str, title: str, text: str = "", event: str = "") -> int:
    """Put a notice into the outbox; returns for how many recipients it is new.

    With `event`, a name that the caller makes up, the same event is notified once, however often this runs.
    """
    names = [check_recipient(name) for name in ([to] if isinstance(to, str) else to)]
    notice = Notice(f"event.{event[:200]}" if event else new_id(), "message", title, text)
    return await context.outbox.post(notice, names)
