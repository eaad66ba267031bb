"""The deployed versions of functions at a server."""

from __future__ import annotations

from typing import cast
from urllib.parse import quote

import msgspec

from dts.client.transport import Transport
from dts.errors import InvalidInput
from dts.management.api.resources import Record
from dts.model import parse_function_name
from dts.wire.archive import is_version_prefix

_DEPLOY_TIMEOUT = 120.0
"""Seconds for the upload of an archive on a slow line."""


class Versions:
    """Versions of functions: list, deploy, read the source."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    async def list(self, function: str) -> list[Record]:
        """All versions of a function that are kept, the one that was deployed last first.

        Raises:
            RequestRefused: there is no such function (404), or it is not the caller's to see (403).
        """
        return cast("list[Record]", await self._transport.call("GET", _path(function)))

    async def get(self, function: str, version: str) -> Record:
        """One version, by its hash or the first digits of it."""
        return cast(Record, await self._transport.call("GET", _path(function, version)))

    async def deploy(self, function: str, archive: bytes, *, message: str = "", activate: bool = True) -> Record:
        """Store a source, a zip archive, as a version; returns that. If `activate`, new jobs run it from then on.

        Raises:
            RequestRefused: the source is not one that workers could run (400), it is too large (413), there is no such
                function (404), or the caller may not (403).
        """
        answer = await self._transport.request(
            "POST",
            _path(function),
            query={"message": message, "activate": "true" if activate else "false"},
            body=archive,
            headers={"Accept": "application/json", "Content-Type": "application/zip"},
            timeout=_DEPLOY_TIMEOUT,
        )
        return cast(Record, msgspec.json.decode(answer.body)["result"])

    async def roll_out(self, function: str, version: str, **where: object) -> Record:
        """Have a version on hosts: `hosts`, a `group` or `all` of them, a `canary` first; returns how far that is.

        New jobs run the version when it is on all hosts that can be reached.
        """
        params = {"version": version, **where}
        return cast(Record, await self._transport.call("POST", _rollout(function), params, repeatable=False))

    async def rollout(self, function: str) -> Record:
        """How far the latest rollout of a function is. Raises RequestRefused (404) if there was none."""
        return cast(Record, await self._transport.call("GET", _rollout(function)))

    async def source(self, function: str, version: str) -> bytes:
        """The source of a version, a zip archive."""
        answer = await self._transport.request("GET", _path(function, version) + "/source")
        return answer.body


def _path(function: str, version: str = "") -> str:
    """The path of a function's versions, or of one of them.

    Raises:
        InvalidName: that cannot be a function.
        InvalidInput: that cannot be a version.
    """
    if version and not is_version_prefix(version):
        raise InvalidInput(f"{version[:80]!r} is not a version: give its hash, or at least four of its first digits")
    return f"/admin/functions/{quote(str(parse_function_name(function)))}/versions/{version}"


def _rollout(function: str) -> str:
    return f"/admin/functions/{quote(str(parse_function_name(function)))}/rollout"
