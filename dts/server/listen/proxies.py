"""Reverse proxies in front of the server, and the clients that they speak for."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Sequence
from typing import Any


class Proxies:
    """The proxies that are trusted to say for whom they ask, as addresses or networks."""

    def __init__(self, trusted: Sequence[str]) -> None:
        self._networks = [ipaddress.ip_network(each, strict=False) for each in trusted]

    def trusts(self, address: str) -> bool:
        """Whether an address is that of a trusted proxy."""
        ip = _address(address)
        return ip is not None and any(ip in network for network in self._networks)

    def client(self, address: str, forwarded: Iterable[str]) -> str:
        """The address of the client behind a connection.

        `forwarded` are the values of X-Forwarded-For, to which each proxy appends whom it was asked by. So the list is
        read from its end, for as long as a trusted proxy says so: what stands before that may be anybody's invention.
        """
        hops = [hop.strip() for value in forwarded for hop in value.split(",")]
        while hops and self.trusts(address):
            hop = _address(hops.pop())
            if hop is None:
                break
            address = str(hop)
        return address


def _address(text: str) -> Any:
    """An IP address, with or without port or brackets; None if it is not one. IPv4 in the form of IPv6 is IPv4."""
    host = text.partition("]")[0].removeprefix("[") if text.startswith("[") else text
    if host.count(":") == 1:
        host = host.partition(":")[0]
    try:
        ip: Any = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return None
    return getattr(ip, "ipv4_mapped", None) or ip
