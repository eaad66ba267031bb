"""Hosts brought into service over real OpenSSH servers, with real workers on them."""

from __future__ import annotations

import asyncio
import sys
import sysconfig
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from dts.management.client import AdminClient
from dts.server.hosts.install import FOLDER
from tests.integration.conftest import Site
from tests.services import sshd
from tests.services.deployment import wait_until
from tests.services.sshd import SshServer

OPTIONS = {"python": sys.executable, "packages": sysconfig.get_path("purelib"), "service": "process"}
"""No index, and no unit of the systemd of the machine that runs the tests."""

PATIENCE = 600.0


@pytest.fixture
def servers() -> Iterator[list[SshServer]]:
    """Three bare hosts."""
    if not sshd.available():
        pytest.skip("no openssh-server on this machine")
    with ExitStack() as stack:
        yield [stack.enter_context(SshServer()) for _ in range(3)]


def admin(site: Site) -> AdminClient:
    return AdminClient("admin", site.settings.server.admin_secret_file.read_text().strip(), site.url)


async def add(client: AdminClient, server: SshServer, host: str) -> None:
    """Put a host on record that serves a route of its own."""
    await client.vhosts.add(
        host,
        address="127.0.0.1",
        port=server.port,
        ssh_user=server.user,
        ssh_pem_cert=server.private_key,
        host_key=server.host_key,
        routes=[host],
        groups=["new"],
    )


async def work(client: AdminClient, what: str, hosts: list[str], **params: Any) -> tuple[dict[str, str], list[Any]]:
    """Work on hosts; how it ended on each, and what was reported before."""
    events: list[dict[str, Any]] = []
    if what in ("init", "upgrade"):
        params = {"options": OPTIONS, "heartbeat_timeout": PATIENCE, **params}
    ends = await client.ssh.work(what, {"hosts": hosts, **params}, events.append)
    return {end["host"]: f"{end['state']} {end.get('text', '')}".strip() for end in ends}, events


def steps(events: list[dict[str, Any]], host: str) -> dict[str, str]:
    return {each["step"]: each["state"] for each in events if each["event"] == "step" and each["host"] == host}


@pytest.mark.timeout(1800)
async def test_three_hosts_from_bare_to_serving_and_back(site: Site, servers: list[SshServer]) -> None:
    hosts = [f"w{number}" for number in range(3)]
    async with admin(site) as client:
        for host, server in zip(hosts, servers, strict=True):
            await add(client, server, host)
        assert (await work(client, "status", hosts))[0] == dict.fromkeys(hosts, "done not installed")
        ends, events = await work(client, "init", [], group="new")
        assert ends == dict.fromkeys(hosts, "done"), ends
        for host in hosts:
            done = dict.fromkeys(("environment", "key", "settings", "options", "service", "heartbeat"), "done")
            assert steps(events, host) == {"python": "unchanged", **done}
            await site.api().call("PATCH", "/admin/functions/text%2Fupper", {"route": host})
            job = await site.api().call("POST", "/jobs/", {"function": "text/upper", "args": [host]}, status=201)
            ended = await _ended(site, job)
            assert (ended["result"], ended["worker"]) == (host.upper(), host)
        # again: nothing changes, and the processes are the same ones
        before = {host: beat.pid for host, beat in (await _beats(site)).items()}
        ends, events = await work(client, "init", hosts)
        assert ends == dict.fromkeys(hosts, "done")
        assert {state for host in hosts for state in steps(events, host).values()} == {"unchanged", "done"}
        assert all(steps(events, host)["service"] == "unchanged" for host in hosts)
        assert {host: beat.pid for host, beat in (await _beats(site)).items()} == before
        # settings that differ start the worker anew; an upgrade stops at the first that does not come back
        await client.vhosts.update("w0", routes=["w0", "extra"])
        servers[1].kill()
        ends, events = await work(client, "upgrade", hosts)
        assert steps(events, "w0")["service"] == "done"
        assert ends["w0"] == "done"
        assert "cannot reach w1" in ends["w1"] or "the connection was lost" in ends["w1"]
        assert ends["w2"] == "failed not touched, since w1 failed"
        await asyncio.to_thread(servers[1].start)
        # out of service
        assert (await work(client, "drain", ["w0"]))[0] == {"w0": "done"}
        assert (await work(client, "status", ["w0"]))[0] == {"w0": "done stopped"}
        assert (await work(client, "remove", hosts))[0] == dict.fromkeys(hosts, "done")
    for server in servers:
        assert list(server.home.iterdir()) == []
        wait_until(lambda server=server: not server.processes(), "nothing to run there", timeout=120)  # type: ignore[misc]


@pytest.mark.timeout(1800)
async def test_a_worker_that_dies_is_started_again(site: Site, servers: list[SshServer]) -> None:
    async with admin(site) as client:
        await add(client, servers[0], "w0")
        assert (await work(client, "init", ["w0"]))[0] == {"w0": "done"}
        pid = (await _beats(site))["w0"].pid
        [worker] = [each for each in servers[0].processes() if each.pid == pid]
        worker.kill()
        async with asyncio.timeout(PATIENCE):
            while "w0" not in (beats := await _beats(site)) or beats["w0"].pid == pid:
                await asyncio.sleep(0.05)
        assert "ended with status -9" in (servers[0].home / FOLDER / "log/worker.log").read_text()


async def test_what_is_wrong_on_a_host_is_said(site: Site, servers: list[SshServer]) -> None:
    server = servers[0]
    async with admin(site) as client:
        await add(client, server, "w0")
        ends, _ = await work(client, "init", ["w0"], options={**OPTIONS, "python": "python2.7"})
        assert "there is no Python 3.11 or later at python2.7" in ends["w0"]
        ends, _ = await work(client, "init", ["w0"], options={**OPTIONS, "packages": "/no/such/folder"})
        assert "No module named" in ends["w0"]
        ends, _ = await work(client, "status", ["w0"])
        assert ends == {"w0": "done not installed"}
        await client.vhosts.add("far", address="192.0.2.1", host_key=server.host_key, ssh_pem_cert=server.private_key)
        ends, _ = await work(client, "init", ["far"])
        assert "[fleet] broker_url" in ends["far"]


async def _beats(site: Site) -> dict[str, Any]:
    return {beat.worker: beat for beat in await site.store.list_heartbeats() if not beat.has_ended}


async def _ended(site: Site, job: str) -> dict[str, Any]:
    async with asyncio.timeout(PATIENCE):
        while True:
            found: dict[str, Any] = await site.api().call("GET", f"/jobs/{job}?wait=20")
            if "success" in found:
                return found
