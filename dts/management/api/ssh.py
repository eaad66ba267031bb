"""Work on hosts over ssh, which the server reports line by line while it goes on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

import msgspec

from dts.client.transport import Transport
from dts.errors import ServerUnavailable
from dts.management.api.resources import Record

OnEvent = Callable[[Record], None]
"""Takes each event as it comes: `host`, `event` (output, step, end) and what belongs to it."""

_SILENCE = 60.0
"""Seconds without a sign of life from the server, which sends one every 10, until it is given up."""


class Ssh:
    """Commands on the fleet's hosts, and hosts brought into service."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    async def host_key(self, address: str, port: int = 22) -> Record:
        """The `host_key` that a host shows now, and its `fingerprint`, which a person has to compare.

        Raises:
            RequestRefused: no ssh server answers there (424), or the address is none (400).
        """
        params = {"address": address, "port": port}
        return cast(Record, await self._transport.call("POST", "/admin/ssh/host-key", params))

    async def run(
        self,
        argv: Sequence[str],
        *,
        hosts: Sequence[str] = (),
        group: str = "",
        on_event: OnEvent | None = None,
        **options: object,
    ) -> list[Record]:
        """Run a command, a list of arguments, on hosts; returns how it ended on each. Options: timeout, parallel.

        Raises:
            RequestRefused: a host is not on record (400), or the caller may not (403).
            ServerUnavailable: the server was lost; what runs on the hosts may go on until its time is over.
        """
        params = {"argv": list(argv), "hosts": list(hosts), "group": group, **options}
        return await self.work("run", params, on_event)

    async def work(self, what: str, params: Record, on_event: OnEvent | None = None) -> list[Record]:
        """Have the server work on hosts; returns how it ended on each, in the order in which it did."""
        ends: list[Record] = []
        lines = _Lines(ends, on_event)
        path = f"/admin/ssh/{what}"
        body = msgspec.json.encode({"params": params})
        headers = {"Content-Type": "application/json"}
        await self._transport.request(
            "POST", path, body=body, headers=headers, timeout=_SILENCE, repeatable=False, on_data=lines.take
        )
        if lines.unfinished:
            raise ServerUnavailable("the server's report ends in the middle of a line")
        return ends


class _Lines:
    """Takes an answer apart into events."""

    def __init__(self, ends: list[Record], on_event: OnEvent | None) -> None:
        self._ends, self._on_event = ends, on_event
        self._rest = b""

    @property
    def unfinished(self) -> bool:
        """Whether the last line has no end."""
        return bool(self._rest)

    def take(self, chunk: bytes) -> None:
        """Take a part of the answer, wherever it was cut."""
        *lines, self._rest = (self._rest + chunk).split(b"\n")
        for line in filter(None, lines):
            event: dict[str, Any] = msgspec.json.decode(line)
            if event.get("event") == "end":
                self._ends.append(event)
            if self._on_event is not None:
                self._on_event(event)
