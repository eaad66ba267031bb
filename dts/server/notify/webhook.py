"""Sends notices to webhooks, signed as Standard Webhooks (https://www.standardwebhooks.com) describes.

A URL comes from a user, and the request goes out from the server's network: so only addresses of the internet are
called, and those that the settings allow. The name is resolved once for each attempt, every address that it has is
checked, and the connection goes to one of these: no second answer of DNS can lead elsewhere. No redirect is followed.
"""

from __future__ import annotations

import base64
import hmac
import ipaddress
import socket
import time
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit

import msgspec
from tornado.httpclient import AsyncHTTPClient, HTTPClientError, HTTPRequest
from tornado.netutil import DefaultExecutorResolver, Resolver
from tornado.simple_httpclient import HTTPTimeoutError, SimpleAsyncHTTPClient

from dts.config import NotifySettings
from dts.errors import InvalidInput
from dts.server.notify.errors import NotDelivered, Undeliverable
from dts.server.notify.notice import Notice
from dts.version import __version__

_CONNECT_TIMEOUT = 10.0
_TIMEOUT = 20.0  # seconds for a receiver to answer: it is meant to accept the notice and work on it later
_MAX_ANSWER = 64 * 1024  # bytes; nothing in an answer is of interest
_MAX_URL = 2048
_GONE = 410
"""The receiver wants nothing more (Standard Webhooks, "disabling")."""

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")

SECRET_PREFIX = "whsec_"


class WebhookSender:
    """Sends one notice at a time to one URL. `keys` gives the keys for an owner's URL, by which requests are signed."""

    def __init__(self, settings: NotifySettings, keys: Callable[[str, str], Sequence[bytes]]) -> None:
        self._keys = keys
        self._resolver = CheckedResolver(settings.allow)
        self._client: AsyncHTTPClient | None = None

    async def send(self, notice: Notice, url: str, owner: str, before_data: Callable[[], Awaitable[None]]) -> None:
        """Send a notice to a URL of an owner's. `before_data` is awaited before the request is begun.

        Raises:
            NotDelivered: the receiver cannot be reached, or did not answer with success.
            Undeliverable: the URL may not be called, or the receiver wants nothing more.
        """
        check_url(url)
        await self._resolver.check(urlsplit(url).hostname or "")
        body = payload_of(notice)
        headers = {"Content-Type": "application/json", **signature(notice.id, body, self._keys(owner, url))}
        request = HTTPRequest(
            url,
            "POST",
            headers=headers,
            body=body,
            follow_redirects=False,
            connect_timeout=_CONNECT_TIMEOUT,
            request_timeout=_TIMEOUT,
            user_agent=f"dts/{__version__}",
            allow_nonstandard_methods=False,
        )
        await before_data()
        try:
            answer = await self._http().fetch(request, raise_error=False)
        except (HTTPClientError, HTTPTimeoutError, OSError, ValueError) as error:
            raise NotDelivered(f"{_origin(url)}: {error or type(error).__name__}"[:500]) from error
        if answer.code == _GONE:
            raise Undeliverable(f"{_origin(url)} answered 410: it wants no more notices")
        if not 200 <= answer.code < 300:
            why = answer.error if answer.code == 599 else f"answered {answer.code}"
            raise NotDelivered(f"{_origin(url)}: {why}"[:500])

    def _http(self) -> AsyncHTTPClient:
        if self._client is None:
            self._client = SimpleAsyncHTTPClient(
                force_instance=True, max_clients=20, resolver=self._resolver, max_body_size=_MAX_ANSWER
            )
        return self._client

    def close(self) -> None:
        """Close its connections."""
        if self._client is not None:
            self._client.close()
            self._client = None


class CheckedResolver(Resolver):
    """Resolves a name and refuses it if any of its addresses may not be called."""

    def initialize(self, allow: Sequence[str] = ()) -> None:
        self._allowed = [ipaddress.ip_network(each, strict=False) for each in allow]
        self._resolver = DefaultExecutorResolver()

    async def check(self, host: str) -> None:
        """Make sure that a host may be called now.

        Raises:
            Undeliverable: it may not.
            NotDelivered: it has no address now.
        """
        await self.resolve(host, 443, socket.AF_UNSPEC)

    async def resolve(
        self, host: str, port: int, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[tuple[int, Any]]:
        try:
            found: list[tuple[int, Any]] = await self._resolver.resolve(host, port, family)
        except (OSError, UnicodeError) as error:
            raise NotDelivered(f"{host} has no address: {error}") from error
        for _, address in found:
            if not self.allows(address[0]):
                raise Undeliverable(
                    f"{host} has the address {address[0]}, which is not one of the internet: an administrator can "
                    "allow its network with [notify] allow"
                )
        return found

    def allows(self, text: str) -> bool:
        """Whether an address may be called: one of the internet, or of a network that is allowed."""
        address = ipaddress.ip_address(text.partition("%")[0])
        if any(address in network for network in self._allowed if network.version == address.version):
            return True
        inner = _embedded(address)
        if inner is not None:
            return self.allows(str(inner))
        return address.is_global and not address.is_multicast


def _embedded(address: Address) -> Address | None:
    """The IPv4 address that packets for an IPv6 address end up at, where it has one in it."""
    if isinstance(address, ipaddress.IPv4Address):
        return None
    if address in _NAT64:
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return address.ipv4_mapped or address.sixtofour or (address.teredo[1] if address.teredo else None)


def check_url(url: str) -> str:
    """Return a URL that a webhook may have.

    Raises:
        InvalidInput: it is not http or https, has a user or a password in it, no host, or is too long.
    """
    try:
        parts = urlsplit(url)
        fine = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        fine = False
    if not fine or len(url) > _MAX_URL or not url.isascii() or not url.isprintable() or " " in url:
        raise InvalidInput(f"{url[:80]!r} is not the URL of a webhook: it must be http or https, with a host, in ASCII")
    if parts.username is not None or parts.password is not None:
        raise InvalidInput("the URL of a webhook must have no user and no password in it: it is shown in lists")
    return url


def payload_of(notice: Notice) -> bytes:
    """A notice as JSON, as Standard Webhooks has it: type, timestamp, data."""
    data = {
        "id": notice.id,
        "title": notice.title,
        "text": notice.text,
        "where": notice.where,
        "since": _iso(notice.since) if notice.since else None,
        "link": notice.link or None,
        **notice.data,
    }
    return msgspec.json.encode({"type": notice.kind, "timestamp": _iso(time.time()), "data": data})


def signature(message_id: str, body: bytes, keys: Sequence[bytes]) -> dict[str, str]:
    """The headers that tell the receiver what to verify; a signature for each key, so that keys can be replaced."""
    now = int(time.time())
    signed = f"{message_id}.{now}.".encode() + body
    signatures = (base64.b64encode(hmac.digest(key, signed, "sha256")).decode() for key in keys)
    return {
        "webhook-id": message_id,
        "webhook-timestamp": str(now),
        "webhook-signature": " ".join(f"v1,{each}" for each in signatures),
    }


def _iso(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def _origin(url: str) -> str:
    """The URL without path and query, which may hold a token."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.hostname}" + (f":{parts.port}" if parts.port else "")
