"""The run on the server: one method for each request about it."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, cast

import msgspec

from dts.client.transport import MAX_ANSWER, Transport, Turns
from dts.errors import ClientError
from dts.wire import codec, dts_pb2

PROTOBUF = "application/x-protobuf"
LONG_POLL = 20.0  # seconds that the server may wait for results; at most 30

_RECEIPT_SIZE = 40  # bytes of a receipt in a request at most
_LEAVE_TIMEOUT = 5.0  # seconds to tell the server that the run is cancelled


class RunInfo(msgspec.Struct):
    """What the server says of a run that it opened."""

    id: str
    block_size: int
    max_body: int
    block_jobs: int | None = None

    def most_jobs(self, allowed: int | None) -> int:
        """How many jobs a block may have, as a server says that knows limits; up to as many as are numbered."""
        return self.block_size if allowed is None else max(1, min(allowed, self.block_size))


class _BlockInfo(msgspec.Struct):
    """What the server says of a block that it has stored: how many jobs the next one may have."""

    block_jobs: int | None = None


class _Stored(msgspec.Struct):
    """The answer to a block."""

    result: _BlockInfo


class RemoteBlock(msgspec.Struct):
    """A block as the server has it, and how many jobs have ended; `first_line` is 0 where the lines are not known."""

    block: int
    jobs: int
    ended: int = 0
    first_line: int = 0
    lines: list[int] = []

    def line_numbers(self, block_size: int) -> array[int]:
        """The line of each job; of a block that does not say, counted from those before it."""
        first = self.first_line or self.block * block_size + 1
        return array("Q", self.lines or range(first, first + self.jobs))


class RemoteRun:
    """A run, by what the server said when it was opened."""

    def __init__(self, transport: Transport, info: RunInfo) -> None:
        self.info = info
        self._transport = transport

    @classmethod
    async def open(cls, transport: Transport, function: str, options: Mapping[str, Any] | None = None) -> RemoteRun:
        """A new run of `function`; `options` is what it asks of attempts.

        Raises:
            RequestRefused: the server does not allow it.
            ServerUnavailable: it was given up.
        """
        result = await transport.call("POST", "/runs/", {"function": function, **(options or {})})
        try:
            return cls(transport, msgspec.convert(result, RunInfo))
        except msgspec.ValidationError as error:
            raise ClientError(f"the server's answer to a new run is not understood: {error}") from error

    @property
    def id(self) -> str:
        """The run's id."""
        return self.info.id

    @property
    def local(self) -> bool:
        """Whether the server is on this machine."""
        return self._transport.local

    async def view(self, *, once: bool = False) -> dict[str, Any]:
        """The run as the server shows it now; tried `once`, or until it answers.

        Raises:
            RequestRefused: there is no such run any more.
            ServerUnavailable: it was given up.
        """
        give_up_after = 0.0 if once else None
        return cast(dict[str, Any], await self._transport.call("GET", self._path(), give_up_after=give_up_after))

    async def store(self, number: int, encoded: codec.Encoded, turn: Turns, most_jobs: Callable[[int], None]) -> None:
        """Have a block stored; `most_jobs` is told how many jobs the next one may have by the limits.

        Raises:
            RequestRefused: it is another block than is stored under that number, the run is cancelled, …
        """
        headers = {"Content-Type": PROTOBUF}
        if encoded.content_encoding:
            headers["Content-Encoding"] = encoded.content_encoding
        path = self._path(f"/blocks/{number}")
        answer = await self._transport.request("PUT", path, body=encoded.body, headers=headers, turn=turn)
        with suppress(msgspec.MsgspecError):  # that of an earlier server
            most_jobs(self.info.most_jobs(msgspec.json.decode(answer.body, type=_Stored).result.block_jobs))

    async def close(self) -> None:
        """Say that all blocks are there."""
        await self._transport.call("PATCH", self._path(), {"state": "closed"})

    async def cancel(self) -> None:
        """Cancel it, unless the server is away: that is not waited for.

        Raises:
            RequestRefused: it has ended already, …
            ServerUnavailable: the server did not answer soon.
        """
        await self._transport.call("DELETE", self._path(), timeout=_LEAVE_TIMEOUT, give_up_after=_LEAVE_TIMEOUT)

    async def results(self, most: int) -> tuple[dts_pb2.ResultPage, float]:
        """About `most` of the results that were not collected, and how many seconds they took on the line."""
        answer = await self._transport.request(
            "GET",
            self._path("/results"),
            query={"max": most, "wait": f"{LONG_POLL:g}"},
            headers={"Accept": PROTOBUF},
            wait=LONG_POLL,
        )
        return codec.decode(dts_pb2.ResultPage, answer.body, max_size=MAX_ANSWER), answer.seconds

    async def blocks(self, first: int = 0) -> list[RemoteBlock]:
        """All blocks that the server has, from number `first` on."""
        found: list[RemoteBlock] = []
        while True:
            query = {"after": found[-1].block if found else first - 1}
            page = await self._transport.call("GET", self._path("/blocks"), query=query)
            found += msgspec.convert(page, list[RemoteBlock])
            if not page:
                return found

    async def has_block(self, number: int) -> bool:
        """Whether the server has a block; it may have stored one that it refused, and ended its jobs."""
        page = await self._transport.call("GET", self._path("/blocks"), query={"after": number - 1, "limit": 1})
        return any(each.block == number for each in msgspec.convert(page, list[RemoteBlock]))

    async def block_results(self, number: int) -> dts_pb2.ResultPage:
        """All results of a block that there are, also those that were collected."""
        path = self._path(f"/blocks/{number}/results")
        answer = await self._transport.request("GET", path, headers={"Accept": PROTOBUF})
        return codec.decode(dts_pb2.ResultPage, answer.body, max_size=MAX_ANSWER)

    async def collected(self, receipts: list[str]) -> None:
        """Tell the server what is safe, in one request unless it takes very small ones only."""
        at_once = max(1, self.info.max_body // _RECEIPT_SIZE - 1)
        for first in range(0, len(receipts), at_once):
            some = receipts[first : first + at_once]
            await self._transport.call("POST", self._path("/collected"), {"receipts": some})

    def _path(self, rest: str = "") -> str:
        return f"/runs/{self.info.id}{rest}"
