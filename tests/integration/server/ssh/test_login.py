"""Who is logged in to: the host whose key is on record, with the key on record, and with nothing else."""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress

import asyncssh
import pytest

from dts.errors import HostKeyChanged, HostUnreachable, InvalidInput, LoginRefused
from dts.model import VirtualHost
from dts.server.access.key_box import KeyBox
from dts.server.ssh import HostKey, SshConnections, fetch_host_key
from dts.server.ssh.login import read_keys
from tests.integration.server.ssh.conftest import Records
from tests.services.sshd import SshServer
from tests.services.waiting import within


async def test_the_key_that_a_host_shows(server: SshServer) -> None:
    key = await fetch_host_key("127.0.0.1", server.port)
    assert key.line == server.host_key
    assert key.fingerprint == asyncssh.read_public_key(server.folder / "host_key").get_fingerprint()
    assert HostKey.parse(f"[127.0.0.1]:{server.port} {server.host_key} a comment") == key


async def test_a_changed_host_key_is_refused_loudly(
    server: SshServer, records: Records, connections: SshConnections, caplog: pytest.LogCaptureFixture
) -> None:
    host = records.of(server)
    async with connections.use(host) as ssh:
        assert (await ssh.run(["true"])).status == 0
    server.kill()
    server.new_host_key()
    await asyncio.to_thread(server.start)
    with caplog.at_level(logging.ERROR), pytest.raises(HostKeyChanged, match="is not the one on record"):
        await _run_until_answered(connections, host)
    assert "worker1" in caplog.text


async def test_a_host_key_of_another_kind_is_refused(
    server: SshServer, records: Records, connections: SshConnections
) -> None:
    other = asyncssh.generate_private_key("ecdsa-sha2-nistp256").export_public_key("openssh").decode()
    with pytest.raises(HostKeyChanged, match="is not the one on record"):
        async with connections.use(records.of(server, host_key=other)):
            pass


async def test_without_a_host_key_nothing_is_connected_to(
    server: SshServer, records: Records, connections: SshConnections
) -> None:
    with pytest.raises(HostKeyChanged, match="no host key is on record"):
        async with connections.use(records.of(server, host_key="")):
            pass
    assert "Connection" not in server.log()


async def test_a_key_that_the_host_does_not_know(
    server: SshServer, records: Records, connections: SshConnections
) -> None:
    other = asyncssh.generate_private_key("ssh-ed25519").export_private_key("openssh").decode()
    with pytest.raises(LoginRefused, match="does not let"):
        async with connections.use(records.of(server, ssh_pem_cert=other)):
            pass
    with pytest.raises(LoginRefused, match="has no ssh key"):
        async with connections.use(records.of(server, ssh_pem_cert="")):
            pass


async def test_a_key_under_a_passphrase(server: SshServer, records: Records, connections: SshConnections) -> None:
    key = asyncssh.import_private_key(server.private_key)
    locked = key.export_private_key("openssh", passphrase="canary-passphrase").decode()
    async with connections.use(records.of(server, ssh_pem_cert=locked, ssh_passphrase="canary-passphrase")) as ssh:
        assert (await ssh.run(["true"])).status == 0
    for wrong, message in (("", "is encrypted"), ("canary-wrong", "does not open")):
        with pytest.raises(LoginRefused, match=message) as refused:
            await _run(connections, records.of(server, ssh_pem_cert=locked, ssh_passphrase=wrong))
        assert "canary" not in str(refused.value)


def test_a_certificate_goes_with_its_key() -> None:
    authority, user = (asyncssh.generate_private_key("ssh-ed25519") for _ in range(2))
    certificate = authority.generate_user_certificate(user.convert_to_public(), "dts", principals=["dts"])
    text = user.export_private_key("pkcs8-pem").decode(), certificate.export_certificate().decode()
    assert [type(key) for key in read_keys(["\n".join(text)])] == [tuple]
    for wrong in ("", "canary", "-----BEGIN PRIVATE KEY-----\ncanary\n-----END PRIVATE KEY-----"):
        with pytest.raises(InvalidInput) as refused:
            read_keys([wrong])
        assert "canary" not in str(refused.value)


@pytest.mark.parametrize("text", ["", "ssh-ed25519", "ssh-ed25519 AAAA", "a\nb", "-oProxyCommand=id"])
def test_what_is_no_host_key(text: str) -> None:
    with pytest.raises(InvalidInput, match="host_key"):
        HostKey.parse(text)


async def test_connections_are_shared_bounded_and_closed_when_idle(
    server: SshServer, records: Records, box: KeyBox
) -> None:
    hosts = [records.of(server, f"worker{number}") for number in range(3)]
    async with SshConnections(box, most=2, idle=0.0) as connections:
        async with connections.use(hosts[0]) as one, connections.use(hosts[0]) as same, connections.use(hosts[1]):
            assert one is same
            third = asyncio.create_task(_run(connections, hosts[2]))
            await one.run(["true"])
            assert (connections.open, third.done()) == (["worker0", "worker1"], False)
        assert await asyncio.wait_for(third, 60) == 0
        async with within():
            while connections.open:
                await asyncio.sleep(0)


async def _run(connections: SshConnections, host: VirtualHost) -> int:
    async with connections.use(host) as ssh:
        return (await ssh.run(["true"])).status


async def _run_until_answered(connections: SshConnections, host: VirtualHost) -> int:
    """Run a command, again when the loss of the connection before has not been noticed yet."""
    while True:
        with suppress(HostUnreachable):
            return await _run(connections, host)


async def test_a_changed_record_is_connected_to_anew(
    server: SshServer, records: Records, connections: SshConnections
) -> None:
    async with connections.use(records.of(server)) as before, connections.use(records.of(server, ssh_key="")) as same:
        assert before is not same  # sealed anew, so the key may have changed
        assert (await before.run(["true"])).status == 0
    assert connections.open == ["worker1"]


async def test_nothing_of_the_system_user_is_read(
    server: SshServer, records: Records, connections: SshConnections, monkeypatch: pytest.MonkeyPatch
) -> None:
    ssh_folder = server.folder / "operator" / ".ssh"
    ssh_folder.mkdir(parents=True)
    trap = server.folder / "trapped"
    (ssh_folder / "config").write_text(f"Host *\n  ProxyCommand touch {trap}\n  User nobody\n")
    (ssh_folder / "known_hosts").write_text("not a line of known_hosts\n")
    monkeypatch.setenv("HOME", str(ssh_folder.parent))
    monkeypatch.setenv("SSH_AUTH_SOCK", str(server.folder / "no-agent"))
    async with connections.use(records.of(server)) as ssh:
        assert (await ssh.run(["true"])).status == 0
    assert not trap.exists()
