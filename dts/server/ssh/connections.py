"""Connections to the fleet's hosts: one a host, shared, bounded in number, and closed when they are idle."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import asyncssh

from dts.errors import HostKeyChanged, HostUnreachable, InvalidInput, LoginRefused
from dts.model import VirtualHost
from dts.runtime.service import Service
from dts.server.access.key_box import KeyBox
from dts.server.ssh.connection import SshConnection
from dts.server.ssh.host_keys import HostKey
from dts.server.ssh.login import SECRET_FIELDS, KeyPair, keys_of

logger = logging.getLogger(__name__)

MAX_CONNECTIONS = 64
"""Hosts that one server is connected to at a time; others wait for one of these to be free."""

IDLE = 60.0
"""Seconds after which a connection that nothing uses is closed."""

CONNECT_TIMEOUT = 30.0
"""Seconds until a host must have answered with its ssh version and host key, and again until the login is done."""

_KEEPALIVE = 15
"""Seconds between two questions to a host that is silent; after three without an answer it counts as lost."""


@dataclass(slots=True)
class _Slot:
    """A host's connection, with those who use it."""

    record: tuple[object, ...]
    opening: asyncio.Lock = field(default_factory=asyncio.Lock)
    connection: SshConnection | None = None
    users: int = 0
    closing: asyncio.TimerHandle | None = None


class SshConnections(Service):
    """Connects to hosts when they are needed. A host whose record has changed is connected to anew."""

    def __init__(self, box: KeyBox, *, most: int = MAX_CONNECTIONS, idle: float = IDLE) -> None:
        super().__init__()
        self._box = box
        self._idle = idle
        self._slots: dict[str, _Slot] = {}
        self._free = asyncio.Semaphore(most)
        self._closed: set[asyncio.Task[None]] = set()

    async def _start(self) -> None:
        self._stack.push_async_callback(self._close_all)

    @property
    def open(self) -> list[str]:
        """The ids of the hosts that are connected to now."""
        return sorted(host for host, slot in self._slots.items() if slot.connection is not None)

    @asynccontextmanager
    async def use(self, host: VirtualHost) -> AsyncIterator[SshConnection]:
        """A connection to a host, for as long as the block lasts.

        Raises:
            HostKeyChanged: the host shows another key than its record says, or the record has none.
            LoginRefused: the record has no key, or the host does not take it.
            HostUnreachable: the host does not answer.
        """
        slot = self._slot(host)
        slot.users += 1
        if slot.closing is not None:
            slot.closing.cancel()
            slot.closing = None
        try:
            async with slot.opening:
                if slot.connection is not None and slot.connection.lost:
                    self._drop(slot)
                if slot.connection is None:
                    slot.connection = await self._connect(host)
            yield slot.connection
        finally:
            slot.users -= 1
            if not slot.users:
                self._released(host.id, slot)

    def _slot(self, host: VirtualHost) -> _Slot:
        """The slot of a host as its record is now; one of an older record ends with its last user."""
        record = (
            host.address,
            host.port,
            host.ssh_user,
            host.host_key,
            *(getattr(host, name) for name in SECRET_FIELDS),
        )
        slot = self._slots.get(host.id)
        if slot is None or slot.record != record:
            if slot is not None and not slot.users:
                self._drop(slot)
            slot = self._slots[host.id] = _Slot(record)
        return slot

    def _released(self, host_id: str, slot: _Slot) -> None:
        """Nothing uses the connection now: close it at once if others wait or it is outdated, else in a while."""
        outdated = self._slots.get(host_id) is not slot
        if outdated or self._free.locked() or slot.connection is None or slot.connection.lost:
            self._end(host_id, slot)
        else:
            slot.closing = asyncio.get_running_loop().call_later(self._idle, self._end, host_id, slot)

    def _end(self, host_id: str, slot: _Slot) -> None:
        self._drop(slot)
        if self._slots.get(host_id) is slot:
            del self._slots[host_id]

    def _drop(self, slot: _Slot) -> None:
        """Give the slot's connection up; it is closed in the background."""
        if slot.closing is not None:
            slot.closing.cancel()
            slot.closing = None
        connection, slot.connection = slot.connection, None
        if connection is None:
            return
        self._free.release()
        task = asyncio.create_task(connection.close(), name=f"ssh-close-{connection.host}")
        self._closed.add(task)
        task.add_done_callback(self._closed.discard)

    async def _connect(self, host: VirtualHost) -> SshConnection:
        key = _pinned(host)
        keys = await asyncio.to_thread(keys_of, host, self._box)  # a passphrase costs bcrypt
        self._make_room()
        await self._free.acquire()
        try:
            connection = await _open(host, key, keys)
        except BaseException:
            self._free.release()
            raise
        logger.debug("connected to the host %s by ssh", host.id)
        return SshConnection(host.id, connection)

    def _make_room(self) -> None:
        """When as many hosts are connected to as may be, close one that nothing uses."""
        if not self._free.locked():
            return
        for host_id, slot in self._slots.items():
            if not slot.users and slot.connection is not None:
                self._end(host_id, slot)
                return

    async def _close_all(self) -> None:
        for host_id, slot in list(self._slots.items()):
            self._end(host_id, slot)
        if self._closed:
            await asyncio.wait(self._closed)


def _pinned(host: VirtualHost) -> HostKey:
    if not host.host_key:
        raise HostKeyChanged(
            f"no host key is on record for {host.id}, so it cannot be told from another machine: "
            f"vhosts update {host.id} host_key='ssh-ed25519 AAAA…'"
        )
    try:
        return HostKey.parse(host.host_key)
    except InvalidInput as error:
        raise HostKeyChanged(f"the host key on record for {host.id} cannot be read: {error}") from error


async def _open(host: VirtualHost, key: HostKey, keys: list[KeyPair]) -> asyncssh.SSHClientConnection:
    """Log in to a host, with its record alone.

    Raises:
        HostKeyChanged, LoginRefused, HostUnreachable: as it says.
    """
    where = f"{host.id} ({host.address or host.id} port {host.port})"
    try:
        return await asyncssh.connect(
            host.address or host.id,
            host.port,
            config=None,
            tunnel=None,
            proxy_command=None,
            known_hosts=([key.key], [], []),
            server_host_key_algs=key.algorithms,
            x509_trusted_certs=None,
            x509_trusted_cert_paths=[],
            username=host.ssh_user,
            client_keys=keys,
            client_host_keysign=False,
            preferred_auth="publickey",
            agent_path=None,
            agent_forwarding=False,
            gss_kex=False,
            gss_auth=False,
            disable_trivial_auth=True,
            connect_timeout=CONNECT_TIMEOUT,
            login_timeout=CONNECT_TIMEOUT,
            keepalive_interval=_KEEPALIVE,
        )
    except asyncssh.HostKeyNotVerifiable as error:
        message = (
            f"the host key of {where} is not the one on record ({key.fingerprint}), so nothing was sent to it: "
            f"{error}. It may be another machine. If the host was installed anew, find out its key there and set it: "
            f"vhosts update {host.id} host_key=…"
        )
        logger.error("%s", message)
        raise HostKeyChanged(message) from error
    except asyncssh.PermissionDenied as error:
        raise LoginRefused(f"{where} does not let {host.ssh_user} in with the key on record: {error.reason}") from error
    except (OSError, asyncssh.Error, ValueError) as error:
        raise HostUnreachable(f"cannot reach {where} by ssh: {error or 'no answer'}") from error
