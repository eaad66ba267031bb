"""Versions are pushed to hosts: canary first, hosts that are down when they are back, and never half of one."""

from __future__ import annotations

import asyncio
import random
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dts.model import Function, VirtualHost
from dts.server.access.key_box import KeyBox
from dts.server.hosts import deployer
from dts.server.hosts.deployer import Deployer
from dts.server.hosts.rollouts import HOSTS, Rollout, get_rollout, list_hosts, note, start_rollout, state_of
from dts.server.lookup.catalogue import Catalogue
from dts.server.ssh import SshConnections
from dts.server.versions.library import add_version, new_version
from dts.store import Store, open_store
from dts.wire.archive import SourceFile, version_of
from tests.integration.server.ssh.conftest import Records
from tests.services import sshd

GOOD = b"def main(x):\n    return x\n\n\ndef self_test():\n    assert main(1) == 1\n"
BAD = b"def main(x):\n    return 2\n\n\ndef self_test():\n    assert main(1) == 1, 'not the same'\n"


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hosts that are down are tried again soon, and servers that died are taken over from."""
    for name, seconds in (("_FIRST_RETRY", 0.2), ("_LONGEST_RETRY", 0.5), ("_POLL", 0.05)):
        monkeypatch.setattr(deployer, name, seconds)


@pytest.fixture
def hosts() -> Iterator[list[sshd.SshServer]]:
    """Three hosts, in service as far as a deployment is concerned: with a DTS."""
    if not sshd.available():
        pytest.skip("no sshd on this machine")
    servers = [sshd.SshServer() for _ in range(3)]
    try:
        for server in servers:
            server.start()
            python = server.home / "dts/current/bin/python"
            python.parent.mkdir(parents=True)
            python.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
            python.chmod(0o755)
        yield servers
    finally:
        for server in servers:
            server.stop()


class Site:
    """A store with a function and hosts, and what the servers on it do."""

    def __init__(self, store: Store, box: KeyBox) -> None:
        self.store, self.box = store, box

    @asynccontextmanager
    async def server(self) -> AsyncIterator[Deployer]:
        """The part of a server that deploys."""
        async with (
            SshConnections(self.box) as connections,
            Deployer(self.store, connections, Catalogue(self.store)) as running,
        ):
            yield running

    async def version(self, text: bytes, **files: bytes) -> str:
        """Store a version; its hash."""
        source = {"stats.py": SourceFile(text)} | {f"{name}.txt": SourceFile(each) for name, each in files.items()}
        await add_version(self.store, new_version("text/stats", source, user="ann", message=""), source)
        return version_of(source)

    async def start(self, version: str, canary: str = "") -> None:
        await start_rollout(self.store, Rollout("text/stats", version, ("h0", "h1", "h2"), canary, "ann", 0.0))

    async def until(self, state: str) -> dict[str, Any]:
        """Wait until the rollout is in a state; the states of the hosts."""
        async with asyncio.timeout(120):
            while (rollout := await get_rollout(self.store, "text/stats")) is None or rollout.state != state:
                await asyncio.sleep(0.05)
        return await self.states()

    async def states(self) -> dict[str, Any]:
        return {each.host: each for each in await list_hosts(self.store, "text/stats")}

    async def until_host(self, host: str, state: str) -> Any:
        async with asyncio.timeout(120):
            while (found := (await self.states())[host]).state != state:
                await asyncio.sleep(0.05)
        return found

    async def active(self) -> str:
        function = await self.store.get_record(Function, "text/stats")
        assert function is not None
        return function.active_version


@pytest.fixture
async def site(tmp_path: Path, box: KeyBox, records: Records, hosts: list[sshd.SshServer]) -> AsyncIterator[Site]:
    async with open_store(f"sqlite:///{tmp_path}/store.db") as store:
        await store.add_record(Function("text/stats"))
        for number, server in enumerate(hosts):
            await store.add_record(records.of(server, f"h{number}"))
        yield Site(store, box)


def versions(server: sshd.SshServer) -> Path:
    return server.home / "dts/var/versions"


def content(server: sshd.SshServer, version: str) -> bytes | None:
    """The module of a version on a host; None if the version is not there."""
    path = versions(server) / version / "functions/text/stats.py"
    return path.read_bytes() if (versions(server) / version).exists() else None


async def test_a_version_comes_to_all_hosts_and_is_active_then(site: Site, hosts: list[sshd.SshServer]) -> None:
    version = await site.version(GOOD)
    await site.start(version)
    async with site.server():
        states = await site.until("active")
    assert {state.state for state in states.values()} == {"done"}, states
    assert await site.active() == version
    for server in hosts:
        assert content(server, version) == GOOD
        assert (versions(server) / "current/text/stats/functions/text/stats.py").read_bytes() == GOOD
        assert sorted(path.name for path in versions(server).iterdir()) == sorted([version, "current"])


async def test_a_version_that_fails_on_the_canary_never_reaches_the_others(
    site: Site, hosts: list[sshd.SshServer]
) -> None:
    async with site.server():
        good = await site.version(GOOD)
        await site.start(good)
        await site.until("active")
        bad = await site.version(BAD)
        await site.start(bad, canary="h1")
        states = await site.until("failed")
        assert [states[host].state for host in ("h0", "h1", "h2")] == ["held", "failed", "held"]
        assert "not the same" in states["h1"].error
        assert await site.active() == good
        assert [content(server, bad) for server in hosts] == [None, None, None]
        assert not list(versions(hosts[1]).glob(".*"))
        fixed = await site.version(GOOD + b"# fixed\n")
        await site.start(fixed, canary="h1")
        states = await site.until("active")
        assert {state.state for state in states.values()} == {"done"}
        assert await site.active() == fixed


async def test_a_host_that_is_down_gets_the_version_when_it_is_back(site: Site, hosts: list[sshd.SshServer]) -> None:
    hosts[2].kill()
    version = await site.version(GOOD)
    await site.start(version)
    async with site.server():
        states = await site.until("active")
        assert states["h2"].state == "unreachable"
        hosts[2].start()
        await site.until_host("h2", "done")
    assert content(hosts[2], version) == GOOD


async def test_a_host_with_another_key_is_refused(site: Site, hosts: list[sshd.SshServer]) -> None:
    hosts[0].kill()
    hosts[0].new_host_key()
    hosts[0].start()
    version = await site.version(GOOD)
    await site.start(version)
    async with site.server():
        states = await site.until("failed")
    assert states["h0"].state == "failed"
    assert "key" in states["h0"].error
    assert content(hosts[0], version) is None


async def test_a_host_that_is_not_in_service_says_so(site: Site, hosts: list[sshd.SshServer]) -> None:
    (hosts[0].home / "dts/current/bin/python").unlink()
    await site.start(await site.version(GOOD))
    async with site.server():
        states = await site.until("failed")
    assert "vhosts init" in states["h0"].error


async def test_a_later_rollout_takes_the_place_of_one_that_runs(site: Site, hosts: list[sshd.SshServer]) -> None:
    hosts[2].kill()
    first, second = await site.version(GOOD), await site.version(GOOD + b"# 2\n")
    async with site.server():
        await site.start(first)
        await site.until_host("h2", "unreachable")
        await site.start(second)
        hosts[2].start()
        await site.until("active")
        await site.until_host("h2", "done")
    assert await site.active() == second
    assert content(hosts[2], second) is not None
    assert content(hosts[2], first) is None


async def test_a_server_that_dies_at_it_leaves_the_work_to_another(
    site: Site, hosts: list[sshd.SshServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    version = await site.version(GOOD)
    monkeypatch.setattr(deployer, "_CLAIM", 0.5)
    reached, real = asyncio.Event(), deployer.push

    async def stuck(*arguments: Any) -> None:
        await real(*arguments)  # all is done on the host, and nothing is noted
        reached.set()
        await asyncio.Event().wait()

    monkeypatch.setattr(deployer, "push", stuck)
    await site.start(version)
    async with site.server():
        async with asyncio.timeout(120):
            await reached.wait()
    monkeypatch.setattr(deployer, "push", real)
    async with site.server():
        states = await site.until("active")
    assert {state.state for state in states.values()} == {"done"}
    assert [content(server, version) for server in hosts] == [GOOD] * 3


@pytest.mark.parametrize("states", ["done done done", "done held held", "done failed done"])
async def test_what_a_server_left_undone_after_its_last_note_is_done(
    tmp_path: Path, box: KeyBox, monkeypatch: pytest.MonkeyPatch, states: str
) -> None:
    """All is noted of the hosts, and nothing follows: the server was killed, or the store was away."""
    monkeypatch.setattr(deployer, "_LOOK_EVERY", 0.01)
    async with open_store(f"sqlite:///{tmp_path}/store.db") as store:
        await store.add_record(Function("text/stats"))
        site = Site(store, box)
        version = await site.version(GOOD)
        await site.start(version, canary="h0")
        for host, state in zip(("h0", "h1", "h2"), states.split(), strict=True):
            [document] = await store.get_documents(HOSTS, [f"text/stats@{host}"])
            assert await note(store, document, replace(state_of(document), state=state), due=None)
        async with site.server():
            await site.until("failed" if "failed" in states or "held" in states else "active")
        assert (await site.active() == version) == (states == "done done done")


async def test_hosts_of_any_number_are_listed(tmp_path: Path) -> None:
    async with open_store(f"sqlite:///{tmp_path}/store.db") as store:
        hosts = tuple(f"h{number:04}" for number in range(1001))
        await start_rollout(store, Rollout("text/stats", "0" * 64, hosts, "", "ann", 0.0))
        assert tuple(each.host for each in await list_hosts(store, "text/stats")) == hosts


async def test_a_host_installs_from_the_index_that_its_own_dts_came_from(
    site: Site, hosts: list[sshd.SshServer]
) -> None:
    for server in hosts:
        python = server.home / "dts/current/bin/python"
        python.write_text(f'#!/bin/sh\necho "$@" > $HOME/arguments\nexec {sys.executable} "$@"\n')
        options = server.home / "dts/etc/install.json"
        options.parent.mkdir()
        options.write_text('{"index_url": "https://pypi.example/simple"}')
    await site.start(await site.version(GOOD))
    async with site.server():
        await site.until("active")
    for server in hosts:
        assert (server.home / "arguments").read_text().endswith(".zip --index-url https://pypi.example/simple\n")


async def test_a_deleted_host_holds_nothing_up_for_ever(site: Site) -> None:
    await site.start(await site.version(GOOD))
    record = await site.store.get_record(VirtualHost, "h1")
    assert record is not None
    await site.store.delete_record(VirtualHost, "h1", version=record.version)
    async with site.server():
        states = await site.until("failed")
    assert "deleted" in states["h1"].error
    assert replace(states["h0"], modified=0.0).state == "done"


async def test_a_host_that_dies_in_the_middle_of_a_copy_has_nothing_of_the_version(
    site: Site, hosts: list[sshd.SshServer]
) -> None:
    noise = random.Random(1).randbytes(9 * 1024 * 1024)
    version = await site.version(GOOD, noise=noise)
    await site.start(version)
    async with site.server():
        async with asyncio.timeout(120):
            while not [path for path in versions(hosts[1]).glob(".*.tmp") if path.stat().st_size]:
                await asyncio.sleep(0.001)
        hosts[1].kill()
        await site.until_host("h1", "unreachable")
        assert content(hosts[1], version) is None
        hosts[1].start()
        await site.until_host("h1", "done")
        await site.until("active")
    assert (versions(hosts[1]) / version / "functions/text/noise.txt").read_bytes() == noise
