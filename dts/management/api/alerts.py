"""Alerts and notices: what is the matter, who gets to know, and whether it reached them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

from dts.client.transport import Transport
from dts.management.api.resources import Listing, Record, Records


class Alerts(Listing):
    """What is the matter now (`phase` pending: what may become so), rules, silences, notices, and a test of these."""

    def __init__(self, transport: Transport) -> None:
        super().__init__(transport, "/admin/alerts/")
        self.rules = Records(transport, "/admin/alerts/rules/")
        self.silences = Records(transport, "/admin/alerts/silences/")
        self.notices = Listing(transport, "/admin/alerts/notices/")

    async def test(self, to: Sequence[str] = ()) -> Record:
        """Send a notice to recipients, or else to those in `[mail] to`; returns `id` and how many `notices` there are.

        Raises:
            RequestRefused: one of them is no recipient (400), or the caller may not (403).
        """
        params: dict[str, Any] = {"to": list(to)} if to else {}
        return cast(Record, await self._transport.call("POST", "/admin/alerts/test", params, repeatable=False))

    async def outcome(self, notice_id: str) -> list[Record]:
        """What became of the notices of an event, one for each recipient."""
        rows = [row async for row in self.notices.list(limit=100, after=f"{notice_id}~")]
        return [row for row in rows if row["id"].startswith(f"{notice_id}.")]

    async def secret(self, url: str) -> str:
        """What the receiver of a webhook verifies the signatures of alerts with."""
        found = cast(Record, await self._transport.call("GET", "/admin/alerts/secret", query={"url": url}))
        return cast(str, found["secret"])
