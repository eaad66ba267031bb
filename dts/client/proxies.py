"""The proxy on the way to a server, as HTTP_PROXY, HTTPS_PROXY and NO_PROXY name it.

A request to http goes to the proxy with the whole URL in its first line (RFC 9112, section 3.2.2); a connection to
https goes through it after a CONNECT (RFC 9110, section 9.3.6).
"""

from __future__ import annotations

import os
from base64 import b64encode
from dataclasses import dataclass
from ipaddress import ip_address, ip_network
from urllib.parse import unquote, urlsplit

from tornado.iostream import IOStream, UnsatisfiableReadError

from dts.client.server_url import is_local
from dts.errors import ConfigError

_PORT = 3128  # of a proxy whose URL names none: that of Squid
_MOST_HEAD = 64 * 1024  # bytes of an answer to CONNECT


class ProxyError(OSError):
    """The proxy does not let a request through; `status` is that of its answer, 0 when it gave none."""

    def __init__(self, message: str, status: int = 0) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True, slots=True)
class Proxy:
    """A proxy; `authorization` is the value of the header that says who uses it, empty when its URL does not."""

    host: str
    port: int
    authorization: str = ""

    @property
    def name(self) -> str:
        """The proxy for a person to read, without its password."""
        return f"the proxy {self.host}:{self.port}"

    async def connect(self, stream: IOStream, host: str, port: int) -> None:
        """Have everything that follows on a connection passed on to a host.

        Raises:
            ProxyError: the proxy does not.
        """
        place = f"{f'[{host}]' if ':' in host else host}:{port}"
        lines = [f"CONNECT {place} HTTP/1.1", f"Host: {place}"]
        if self.authorization:
            lines.append(f"Proxy-Authorization: {self.authorization}")
        await stream.write("\r\n".join([*lines, "", ""]).encode())
        try:
            head = await stream.read_until(b"\r\n\r\n", max_bytes=_MOST_HEAD)
        except UnsatisfiableReadError as error:
            raise ProxyError(f"{self.name} does not answer as a proxy does") from error
        version, _, rest = head.partition(b"\r\n")[0].decode("latin-1").partition(" ")
        status = rest[:3]
        if not version.startswith("HTTP/1.") or not status.isdigit():
            raise ProxyError(f"{self.name} does not answer as a proxy does")
        if not status.startswith("2"):
            raise ProxyError(self.refusal(int(status), rest[3:].strip()), int(status))

    def refusal(self, status: int, reason: str) -> str:
        """What to say when the proxy does not let a request through."""
        hint = ": give user and password in its URL, http://user:password@host:port" if status == 407 else ""
        return f"{self.name} refused with HTTP {status} {reason}{hint}"


def proxy_for(origin: str) -> Proxy | None:
    """The proxy that the environment names for a server, None for a direct connection, as to this machine.

    Raises:
        ConfigError: it is none that can be used.
    """
    parts = urlsplit(origin)
    url = _variable(f"{parts.scheme}_proxy") or _variable("all_proxy")
    if not url or is_local(origin) or is_excepted(parts.hostname or "", parts.port, _variable("no_proxy")):
        return None
    return parse_proxy(url)


def _variable(name: str) -> str:
    """A variable of the environment, in small letters, else in capitals: http_proxy means what HTTP_PROXY does."""
    return os.environ.get(name) or os.environ.get(name.upper(), "")


def is_excepted(host: str, port: int | None, exceptions: str) -> bool:
    """Whether NO_PROXY has a host: by its name or a domain of it, its address or a network of it, or *."""
    return any(_matches(host, port, entry) for entry in map(str.strip, exceptions.lower().split(",")) if entry)


def _matches(host: str, port: int | None, entry: str) -> bool:
    name, _, number = entry.rpartition(":")
    if name and number.isdigit() and ":" not in name:
        return int(number) == port and _matches(host, port, name)
    domain = entry.removeprefix("*").removeprefix(".")
    return entry == "*" or host == domain or host.endswith(f".{domain}") or _is_in_network(host, entry)


def _is_in_network(host: str, network: str) -> bool:
    try:
        return ip_address(host) in ip_network(network, strict=False)
    except ValueError:
        return False


def parse_proxy(url: str) -> Proxy:
    """The proxy of a URL, which may be without `http://`.

    Raises:
        ConfigError: it is none that can be used.
    """
    try:
        parts = urlsplit(url if "://" in url else f"http://{url}")
        host, port = parts.hostname, parts.port or _PORT
    except ValueError:
        host = None
    if host is None or parts.scheme != "http":
        shown = url.rpartition("@")[2]
        raise ConfigError(
            f"{shown!r} in HTTP_PROXY, HTTPS_PROXY or ALL_PROXY is no proxy to use: write http://host:port"
        )
    if parts.username is None:
        return Proxy(host, port)
    who = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
    return Proxy(host, port, f"Basic {b64encode(who.encode()).decode()}")
