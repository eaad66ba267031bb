"""Connections of clients: how many there may be, of whom, and how long each may take over a request.

A connection is *unsigned* until it has carried a request with a valid signature. Unsigned ones are what anybody can
open, so they get little of everything, and the oldest of them makes way when room is needed. A signed one may wait for
results as long as it likes, in thousands.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import socket
import time
from enum import Enum
from typing import Any

from tornado.iostream import IOStream

from dts.config import ServerSettings
from dts.runtime.log_throttle import LogThrottle
from dts.server.listen.proxies import Proxies

logger = logging.getLogger(__name__)

_SWEEP = 1.0
"""Seconds between two looks at the time that connections take; those that wait for an answer are not looked at."""

_READ_BUFFER = 1024 * 1024  # bytes; a head is at most 16 KiB, a body is read in pieces of 64 KiB
_UNSIGNED_ANSWER = 30.0
"""Seconds that an answer to an unsigned request may take to be written: the client may not read it."""

_NETWORK_BITS = 64
"""The part of an IPv6 address that counts as one address: a single host has 2**64 of them."""


class Phase(Enum):
    """What a connection is waiting for."""

    HEAD = "head"
    BODY = "body"
    ANSWER = "answer"


class Peer(IOStream):
    """A connection of a client."""

    def __init__(self, connection: socket.socket, address: str, peers: Peers) -> None:
        super().__init__(connection, max_buffer_size=_READ_BUFFER)
        self.address = address
        self.local_address = str(connection.getsockname()[0])
        self.signed = False
        self.phase = Phase.HEAD
        self.since = time.monotonic()
        self.received = 0
        """Bytes that have come in this phase."""
        self._peers = peers

    def read_from_fd(self, buf: bytearray | memoryview[int]) -> int | None:
        """Read, and count what has come."""
        count = super().read_from_fd(buf)
        if count:
            if self.phase is Phase.HEAD and not self.received:
                self.since = time.monotonic()  # the head begins: its time counts from here
            self.received += count
        return count

    def close_fd(self) -> None:
        """The connection ends, for whatever reason; called by Tornado."""
        super().close_fd()
        self._peers.remove(self)

    def enter(self, phase: Phase) -> None:
        """Begin the next phase of a request."""
        self.phase, self.since, self.received = phase, time.monotonic(), 0
        self._peers.watch(self)

    def prove(self) -> None:
        """A request with a valid signature has come over this connection."""
        if not self.signed:
            self._peers.forget_unsigned(self)
            self.signed = True
            self._peers.watch(self)


class Peers:
    """The connections of a server; at most `most` at a time."""

    def __init__(self, limits: ServerSettings, most: int, proxies: Proxies) -> None:
        self._limits = limits
        self._proxies = proxies
        self._most = most
        self._per_address = min(limits.unsigned_per_address, max(1, most // 4))
        self._all: set[Peer] = set()
        self._watched: dict[Peer, None] = {}
        """Signed connections whose time is limited, the one that entered its phase first at the front."""
        self._unsigned: dict[Peer, None] = {}
        """The unsigned ones, in the same order."""
        self._by_address: dict[str, dict[Peer, None]] = {}
        """The unsigned ones of each address, the oldest first."""
        self._crowded = LogThrottle(60.0)
        self._sweeping: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        return len(self._all)

    def start(self) -> None:
        """Look after the connections from now on."""
        self._sweeping = asyncio.get_running_loop().call_later(_SWEEP, self._sweep)

    def stop(self) -> None:
        """Look after them no more."""
        if self._sweeping is not None:
            self._sweeping.cancel()

    def add(self, connection: socket.socket, address: str) -> Peer | None:
        """Take a new connection, for which an unsigned or an idle one may be closed; None if there is no room."""
        key = _network(address)
        of_address = self._by_address.get(key, {})
        if len(of_address) >= self._per_address and not self._proxies.trusts(address):
            self._log_crowd(f"{address} has {len(of_address)} connections that carried no signed request")
            next(iter(of_address)).close()
        if len(self._all) >= self._most and not self._close_one():
            self._log_crowd(f"there are {self._most} connections, all with requests under way")
            connection.close()
            return None
        peer = Peer(connection, key, self)
        self._all.add(peer)
        self._by_address.setdefault(key, {})[peer] = None
        self.watch(peer)
        return peer

    def remove(self, peer: Peer) -> None:
        """A connection was closed."""
        self._all.discard(peer)
        self._watched.pop(peer, None)
        self.forget_unsigned(peer)

    def forget_unsigned(self, peer: Peer) -> None:
        """A connection is no longer among the unsigned ones."""
        self._unsigned.pop(peer, None)
        of_address = self._by_address.get(peer.address, {})
        of_address.pop(peer, None)
        if not of_address:
            self._by_address.pop(peer.address, None)

    def watch(self, peer: Peer) -> None:
        """A connection has entered a phase: its time runs, unless it waits for the answer to a signed request."""
        watched = self._watched if peer.signed else self._unsigned
        watched.pop(peer, None)
        if peer in self._all and not (peer.signed and peer.phase is Phase.ANSWER):
            watched[peer] = None

    def make_room(self) -> None:
        """Close a tenth of the connections, of those that nobody needs."""
        for _ in range(max(1, len(self._all) // 10)):
            if not self._close_one():
                return

    def _close_one(self) -> bool:
        """Close the unsigned connection that is longest in its phase, or else an idle one; whether there was one."""
        idle = (peer for peer in self._watched if peer.phase is Phase.HEAD and not peer.received)
        victim = next(iter(self._unsigned), None) or next(idle, None)
        if victim is not None:
            victim.close()
        return victim is not None

    def _log_crowd(self, what: str) -> None:
        if self._crowded.is_due():
            logger.warning("%s: connections are closed to make room, see max_connections in [server]", what)

    def _sweep(self) -> None:
        """Close the connections that take too long."""
        now = time.monotonic()
        for peer in [peer for peer in (*self._watched, *self._unsigned) if now - peer.since > self._allowed(peer)]:
            peer.close()
        self.start()

    def _allowed(self, peer: Peer) -> float:
        """Seconds that a connection may spend in its phase, by what has come of it."""
        limits = self._limits
        if peer.phase is Phase.BODY:
            return limits.body_timeout + peer.received / limits.body_rate
        if peer.phase is Phase.ANSWER:
            return _UNSIGNED_ANSWER
        return limits.idle_timeout if peer.signed and not peer.received else limits.head_timeout


def _network(address: str) -> str:
    """What counts as one address: an IPv4 address, or the network that an IPv6 address is in."""
    try:
        ip: Any = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if ip.version == 6 and ip.ipv4_mapped is None:
        return str(ipaddress.ip_network((ip, _NETWORK_BITS), strict=False))
    return str(getattr(ip, "ipv4_mapped", None) or ip)
