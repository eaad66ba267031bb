"""`/admin/ssh/`: work on hosts, reported while it goes on."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec

from dts.management.client import AdminClient
from dts.model import VirtualHost
from dts.server.access.key_box import KeyBox
from tests.integration.conftest import Site
from tests.services.sshd import SshServer
from tests.services.waiting import wait_until


async def a_host(site: Site, server: SshServer, host_id: str = "w1", **fields: Any) -> None:
    """Put a host on record."""
    sealed = KeyBox.open(site.settings.server.key_file).seal(
        server.private_key.encode(), f"vhosts/{host_id}/ssh_pem_cert"
    )
    fields = {"address": "127.0.0.1", "port": server.port, "ssh_user": server.user, **fields}
    await site.store.add_record(VirtualHost(host_id, host_key=server.host_key, ssh_pem_cert=sealed, **fields))


def admin(site: Site) -> AdminClient:
    return AdminClient("admin", site.settings.server.admin_secret_file.read_text().strip(), site.url)


async def test_output_comes_while_the_command_runs(site: Site, ssh_server: SshServer) -> None:
    await a_host(site, ssh_server)
    go = ssh_server.home / "go"
    seen: list[dict[str, Any]] = []

    def on_event(event: dict[str, Any]) -> None:
        seen.append(event)
        if event.get("text") == "begun\n":
            go.touch()  # the command ends only if its first line is heard of before

    async with admin(site) as client:
        script = f"echo begun; until test -e {go}; do sleep 0.02; done; echo over"
        [end] = await client.ssh.run(["sh", "-c", script], hosts=["w1"], timeout=300, on_event=on_event)
    assert (end["state"], end["status"]) == ("done", 0)
    assert [event.get("text") for event in seen if event["event"] == "output"] == ["begun\n", "over\n"]


async def test_work_ends_when_the_client_goes_away(site: Site, ssh_server: SshServer) -> None:
    await a_host(site, ssh_server)
    begun = asyncio.Event()
    async with admin(site) as client:
        running = asyncio.create_task(
            client.ssh.run(["sh", "-c", "echo on; sleep 3600"], hosts=["w1"], on_event=lambda _: begun.set())
        )
        await begun.wait()
        running.cancel()
        await asyncio.wait([running])

    async def outcome() -> str:
        entries = await site.api().call("GET", "/admin/operations/?op_type=ssh.run")
        return str(entries[0]["outcome"])

    async with asyncio.timeout(120):
        while await outcome() == "begun":
            await asyncio.sleep(0.05)
    assert await outcome() == "client_gone"


async def test_the_plugin_gives_the_same_as_a_result_and_is_on_record(site: Site, ssh_server: SshServer) -> None:
    await a_host(site, ssh_server, groups=("gpu",))
    api = site.api()
    job = await api.call(
        "POST",
        "/jobs/",
        {"function": "server/sshrpc", "args": [["echo", "$(id)"]], "kwargs": {"group": "gpu"}},
        status=201,
    )
    done = await api.call("GET", f"/jobs/{job}?wait=30")
    assert done["result"]["w1"] | {"seconds": 0} == {"status": 0, "error": "", "output": "$(id)\n", "seconds": 0}
    entries = await api.call("GET", "/admin/operations/?op_type=ssh.run")
    assert [(each["outcome"], each["operator"], each["ops"]["argv"]) for each in entries] == [
        ("done", "admin", ["echo", "$(id)"]),
        ("begun", "admin", ["echo", "$(id)"]),
    ]
    job = await api.call(
        "POST", "/jobs/", {"function": "server/sshrpc", "args": ["rm -rf /"], "kwargs": {"group": "gpu"}}, status=201
    )
    assert "argv is a list" in (await api.call("GET", f"/jobs/{job}?wait=30"))["error"]["message"]


async def test_it_is_for_administrators(site: Site) -> None:
    boss = await site.add_user("boss", roles={"operator", "developer"})
    for path in ("run", "host-key"):
        await boss.refused("POST", f"/admin/ssh/{path}", {}, status=403, code="forbidden")


async def test_no_key_is_in_any_answer_or_log(site: Site, ssh_server: SshServer, caplog: Any) -> None:
    caplog.set_level("DEBUG")
    await a_host(site, ssh_server)
    api = site.api()
    body = msgspec.json.encode({"params": {"hosts": ["w1"], "argv": ["true"]}})
    shown = [(await api.send("POST", "/admin/ssh/run", body)).body]
    shown += [(await api.send("GET", f"/admin/{path}")).body for path in ("vhosts/w1", "operations/")]
    secret = ssh_server.private_key.splitlines()[2]
    assert secret not in b"".join(shown).decode() + caplog.text
    wait_until(lambda: not ssh_server.processes(), "nothing to be left on the host", timeout=60)
