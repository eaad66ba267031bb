"""`vhosts add`, `vhosts trust` and `ssh` against real OpenSSH servers."""

from __future__ import annotations

import asyncio

import pytest

from dts.server.ssh import HostKey
from tests.integration.conftest import Site
from tests.integration.management.shell.conftest import Run, said, write
from tests.services.sshd import SshServer


async def add(dts_admin: Run, server: SshServer, host: str, *more: str) -> int:
    """Add a host with its key, and with the fingerprint that its administrator knows."""
    write("key", server.private_key)
    argv = ("vhosts", "add", host, "address=127.0.0.1", f"port={server.port}", f"ssh_user={server.user}")
    fingerprint = HostKey(server.host_key).fingerprint
    return await dts_admin(*argv, "ssh_pem_cert=@key", "--accept-fingerprint", fingerprint, *more)


async def test_a_hosts_key_is_confirmed_and_pinned(
    dts_admin: Run, ssh_server: SshServer, site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    fingerprint = HostKey(ssh_server.host_key).fingerprint
    write("key", ssh_server.private_key)
    argv = ("vhosts", "add", "w1", "address=127.0.0.1", f"port={ssh_server.port}", "ssh_pem_cert=@key", "--yes")
    assert await dts_admin(*argv) == 2
    assert f"give --accept-fingerprint {fingerprint}" in capsys.readouterr().err
    assert await dts_admin(*argv, "--accept-fingerprint", "SHA256:another") == 2
    assert "not trusted" in capsys.readouterr().err
    assert await dts_admin(*argv, "--accept-fingerprint", fingerprint) == 0
    assert (await site.api().call("GET", "/admin/vhosts/w1"))["host_key"] == ssh_server.host_key
    # installed anew, with another key
    ssh_server.kill()
    ssh_server.new_host_key()
    await asyncio.to_thread(ssh_server.start)
    assert await dts_admin("ssh", "w1", "--", "true") == 1
    assert "is not the one on record" in capsys.readouterr().out
    fingerprint = HostKey(ssh_server.host_key).fingerprint
    assert await dts_admin("vhosts", "trust", "w1", "--accept-fingerprint", fingerprint) == 0
    assert await dts_admin("vhosts", "update", "w1", f"ssh_user={ssh_server.user}") == 0
    assert await dts_admin("ssh", "w1", "--", "true") == 0


async def test_a_host_that_is_away_is_added_without_its_key(
    dts_admin: Run, ssh_server: SshServer, capsys: pytest.CaptureFixture[str]
) -> None:
    ssh_server.kill()
    assert await add(dts_admin, ssh_server, "w1") == 0
    assert "vhosts trust w1" in capsys.readouterr().err
    assert await dts_admin("ssh", "w1", "--", "true") == 1
    assert "no host key is on record" in capsys.readouterr().out


async def test_a_command_on_a_group(
    dts_admin: Run, ssh_server: SshServer, site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    for host in ("w1", "w2"):
        assert await add(dts_admin, ssh_server, host, "groups=gpu") == 0
    assert await dts_admin("vhosts", "add", "w3", "address=127.0.0.1", "port=1", "groups=gpu") == 0
    capsys.readouterr()
    script = "printf 'one\\ntwo'; test $1 = a"
    assert await dts_admin("ssh", "group=gpu", "--timeout", "1m", "--", "sh", "-c", script, "sh", "a") == 1
    shown = capsys.readouterr().out
    for line in ("w1 | one", "w1 | two", "w2 | two"):
        assert line in shown
    assert "no host key is on record for w3" in " ".join(shown.split())
    assert await dts_admin("ssh", "w1", "--json", "--", "sh", "-c", "exit 3") == 1
    [end] = said(capsys)
    assert (end["host"], end["event"], end["state"], end["status"]) == ("w1", "end", "failed", 3)
    begun, done = (await site.api().call("GET", "/admin/operations/?op_type=ssh.run&limit=2&order=oldest"))[:2]
    assert begun["ops"]["argv"] == ["sh", "-c", script, "sh", "a"]
    assert done["ops"]["hosts"] == ["w1", "w2", "w3"]
    assert done["ops"]["ended"] == {"w1": 0, "w2": 0, "w3": None}


@pytest.mark.parametrize(
    ("argv", "reason"),
    [
        (["ssh", "w1", "true"], "what is to run"),
        (["ssh", "--", "true"], "say which hosts"),
        (["ssh", "nobody", "--", "true"], "there is no host nobody"),
        (["ssh", "group=none", "--", "true"], "no host is in the group"),
        (["ssh", "-oProxyCommand=id", "--", "true"], "has no flag"),
        (["ssh", "a;id", "--", "true"], "is not a host"),
        (["vhosts", "add", "$(id)"], "is not a host"),
        (["vhosts", "add", "../x"], "is not a host"),
        (["vhosts", "add", "a\nb"], "is not a host"),
        (["vhosts", "add", "w", "address=-oProxyCommand=id"], "neither the name of a host"),
        (["vhosts", "add", "w", "address=a;id"], "neither the name of a host"),
        (["vhosts", "add", "w", "address=$(id)", "ssh_key=@key"], "neither the name of a host"),
        (["vhosts", "add", "w", "address=a\nb"], "neither the name of a host"),
        (["vhosts", "add", "w", "ssh_user=-oProxyCommand=id"], "name of a user"),
        (["vhosts", "add", "w", "groups=a;id"], "name of a group"),
        (["vhosts", "add", "w", "groups=../x"], "name of a group"),
        (["vhosts", "add", "w", "host_key=-oProxyCommand=id"], "no public key of a host"),
        (["vhosts", "add", "w", "functions_dir=-rf"], "hyphen"),
    ],
)
async def test_hostile_values_are_refused(
    argv: list[str], reason: str, dts_admin: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    write("key", "no key")
    assert await dts_admin(*argv) != 0
    assert reason in capsys.readouterr().err
