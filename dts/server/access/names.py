"""The names that this server is reached by: a request that was signed for another host is not for this server."""

from __future__ import annotations

import ipaddress
import logging
import socket
from collections.abc import Sequence

from dts.auth import signed_host, split_host
from dts.runtime.log_throttle import LogThrottle

logger = logging.getLogger(__name__)

_LOCAL_NAMES = ("localhost", "ip6-localhost")
_DEFAULT_PORTS = ("", "80", "443")


class Names:
    """Tells for which hosts a request may have been signed.

    A server answers to what is configured, with the port that is given there or, without one, with any; and at its own
    port to this machine's name, to `localhost`, and to the address that the connection came in at.
    """

    def __init__(self, configured: Sequence[str], host: str, port: int, base_path: str = "") -> None:
        self._base_path = base_path
        self._unknown = LogThrottle()
        self._configured = tuple(dict.fromkeys(signed_host(name) for name in configured))
        self._port = str(port)
        machine = socket.gethostname().lower()
        self._own = {*_LOCAL_NAMES, machine, machine.partition(".")[0], host.lower()} - {""}

    def candidates(self, header: str | None, local: str) -> list[str]:
        """The hosts to verify a signature for: the Host header's, if it is this server's, then those configured.

        A proxy may have put another Host into the request; then the configured names are what a client can have signed.
        `local` is the address of this side of the connection.
        """
        sent = signed_host(header or "")
        own = [sent] if self.is_own(sent, local) else []
        return own + [name for name in self._configured if name != sent]

    def below_base_path(self, path: str) -> str:
        """The part of a raw path that is signed: what follows the path that all of this server's URLs begin with."""
        return path.removeprefix(self._base_path)

    def hint(self, header: str | None, local: str) -> str:
        """What to add to a refusal when the request was for a host that is none of this server's; else nothing."""
        sent = signed_host(header or "")
        if self.is_own(sent, local):
            return ""
        if self._unknown.is_due():
            logger.warning(
                "refused a request to the host %.100r, which is none of this server's: "
                "if clients reach it by that name, add it to [server] names",
                sent,
            )
        return (
            f" This server is not known as {sent[:100]!r}: if that is how it is reached, [server] names must say so, "
            "or the proxy in front must pass the Host header on."
        )

    def is_own(self, host: str, local: str) -> bool:
        """Whether a host, with or without a port, is one that this server is reached by."""
        name, port = split_host(host)
        if host in self._configured or name in self._configured:
            return bool(name)
        if port != self._port and not (port in _DEFAULT_PORTS and self._port in _DEFAULT_PORTS):
            return False
        return name in self._own or _is_address(name, local)


def _is_address(name: str, local: str) -> bool:
    """Whether a host is this IP address, however it is written."""
    try:
        asked, here = (_unmapped(text.strip("[]").partition("%")[0]) for text in (name, local))
    except ValueError:
        return False
    return asked == here


def _unmapped(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """An IP address; one of IPv4 also where it is written as one of IPv6."""
    address = ipaddress.ip_address(text)
    return getattr(address, "ipv4_mapped", None) or address
