"""Fetches the source of a version from a server, with a request that is signed with the fleet's key."""

from __future__ import annotations

import asyncio
from urllib.parse import urlsplit

from tornado.httpclient import AsyncHTTPClient, HTTPRequest

from dts.auth import KeccakAuthenticator, Request
from dts.errors import FunctionMissing, ImportFailed, InvalidInput, ServerUnavailable
from dts.wire.archive import MAX_ARCHIVE, Source, unpack, version_of
from dts.wire.fleet_access import fleet_credentials, version_path
from dts.wire.function_source import check_requirements
from dts.wire.seal import Seal

_TIMEOUT = 120.0
"""Seconds for one request: 10 MiB on a slow line."""

_NOT_FOUND = 404


class VersionFetcher:
    """Gets sources from one server. `ca_file` names a private CA that its certificate is checked against."""

    def __init__(self, server_url: str, seal: Seal, ca_file: str = "") -> None:
        self._url = server_url.rstrip("/")
        self._base_path = urlsplit(self._url).path
        self._authenticator = KeccakAuthenticator(fleet_credentials(seal)[0])
        self._ca_file = ca_file or None
        self._client = AsyncHTTPClient(force_instance=True, max_body_size=MAX_ARCHIVE)

    def close(self) -> None:
        """Close its connections."""
        self._client.close()

    async def fetch(self, function: str, version: str) -> Source:
        """The files of a version, whose hash they have.

        Raises:
            FunctionMissing: the server has no such version.
            ImportFailed: what it has is not what the hash says.
            ServerUnavailable: it does not answer, or refuses to; another attempt may succeed.
        """
        body = await self._get(function, version)
        # In a thread: up to 64 MiB are inflated and hashed, while the worker's loop has others to serve.
        return await asyncio.to_thread(self._checked, body, function, version)

    def _checked(self, body: bytes, function: str, version: str) -> Source:
        what = f"what {self._url} has as version {version[:12]} of {function}"
        try:
            source = unpack(body)
        except InvalidInput as error:
            raise ImportFailed(f"{what} is damaged: {error}") from error
        if version_of(source) != version:
            raise ImportFailed(f"{what} has another hash")
        check_requirements(source)
        return source

    async def _get(self, function: str, version: str) -> bytes:
        url = self._url + version_path(function, version)
        signature = self._authenticator.sign(Request.to("GET", url, base_path=self._base_path))
        request = HTTPRequest(
            url,
            headers={"Authorization": signature},
            request_timeout=_TIMEOUT,
            follow_redirects=False,
            ca_certs=self._ca_file,
        )
        try:
            answer = await self._client.fetch(request, raise_error=False)
        except OSError as error:
            raise ServerUnavailable(f"{self._url} does not answer: {error}") from error
        if answer.code == _NOT_FOUND:
            raise FunctionMissing(f"{self._url} has no version {version[:12]} of {function}")
        if answer.code != 200:
            raise ServerUnavailable(f"{self._url} answered {answer.code}: {(answer.body or b'')[:200]!r}")
        return answer.body
