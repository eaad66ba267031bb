"""Real OpenSSH servers, and connections to them."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import pytest

from dts.model import VirtualHost
from dts.server.access.key_box import KeyBox
from dts.server.ssh import SshConnections
from tests.services import sshd


@pytest.fixture
def server(ssh_server: sshd.SshServer) -> sshd.SshServer:
    """A host of the fleet."""
    return ssh_server


@pytest.fixture(scope="session")
def box() -> KeyBox:
    """A server's key file."""
    return KeyBox(base64.urlsafe_b64encode(bytes(32)))


@dataclass
class Records:
    """Makes the records of hosts."""

    box: KeyBox

    def of(self, server: sshd.SshServer, host_id: str = "worker1", **changes: Any) -> VirtualHost:
        """The record of a host as an administrator has it; `changes` are fields that differ, keys as text."""
        fields: dict[str, Any] = {
            "address": "127.0.0.1",
            "port": server.port,
            "ssh_user": server.user,
            "host_key": server.host_key,
            "ssh_pem_cert": server.private_key,
            **changes,
        }
        for name in ("ssh_key", "ssh_pem_cert", "ssh_passphrase"):
            text = fields.pop(name, "")
            fields[name] = self.box.seal(text.encode(), f"vhosts/{host_id}/{name}") if text else b""
        return VirtualHost(host_id, **fields)


@pytest.fixture
def records(box: KeyBox) -> Records:
    """Makes the records of hosts."""
    return Records(box)


@pytest.fixture
async def connections(box: KeyBox) -> AsyncIterator[SshConnections]:
    """Connections as a server has them."""
    async with SshConnections(box) as connections:
        yield connections
