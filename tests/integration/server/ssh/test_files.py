"""Files over SFTP: a path has the old content or the new one, and nothing else is left behind."""

from __future__ import annotations

import asyncio
import os

import pytest

from dts.errors import HostError, HostUnreachable
from dts.server.ssh import SshConnections
from tests.integration.server.ssh.conftest import Records
from tests.services.sshd import SshServer


async def test_a_file_is_replaced_as_a_whole(server: SshServer, records: Records, connections: SshConnections) -> None:
    path = f"{server.home}/etc/worker.toml"
    async with connections.use(records.of(server)) as ssh:
        await ssh.make_folder(f"{server.home}/etc")
        assert await ssh.read(path) is None
        await ssh.put(b"one", path)
        await ssh.put(b"two", path, mode=0o600)
        await ssh.sync(f"{server.home}/etc")
        assert await ssh.read(path) == b"two"
    assert os.stat(path).st_mode & 0o777 == 0o600
    assert os.listdir(f"{server.home}/etc") == ["worker.toml"]


async def test_a_link_is_replaced_in_one_step(server: SshServer, records: Records, connections: SshConnections) -> None:
    async with connections.use(records.of(server)) as ssh:
        for target in ("v1", "v2"):
            await ssh.link(target, f"{server.home}/current")
            assert os.readlink(server.home / "current") == target
    assert os.listdir(server.home) == ["current"]


async def test_what_cannot_be_written_is_said_and_leaves_nothing(
    server: SshServer, records: Records, connections: SshConnections
) -> None:
    (server.home / "there").mkdir()
    async with connections.use(records.of(server)) as ssh:
        with pytest.raises(HostError, match="worker1"):
            await ssh.put(b"x", f"{server.home}/there")  # a folder is in the way
        with pytest.raises(HostError, match="worker1"):
            await ssh.put(b"x", f"{server.home}/no/such/folder/file")
    assert os.listdir(server.home) == ["there"]


async def test_a_server_that_dies_at_a_copy_leaves_the_old_file(
    server: SshServer, records: Records, connections: SshConnections
) -> None:
    path = server.home / "code"
    path.write_bytes(b"old")
    async with connections.use(records.of(server)) as ssh:
        copying = asyncio.create_task(ssh.put(b"new" * 5_000_000, str(path)))
        while not [name for name in os.listdir(server.home) if name.endswith(".tmp")]:
            assert not copying.done()
            await asyncio.sleep(0)
        server.kill()  # blocks the loop, so that the copy cannot go on meanwhile
        with pytest.raises(HostUnreachable):
            await copying
    assert path.read_bytes() == b"old"
