"""Commands over ssh: arguments arrive as they were given, and what they do comes back."""

from __future__ import annotations

import asyncio

import pytest

from dts.errors import CommandFailed, HostUnreachable, InvalidInput
from dts.server.ssh import SshConnections
from dts.server.ssh.connection import MAX_OUTPUT
from tests.integration.server.ssh.conftest import Records
from tests.services.sshd import SshServer
from tests.services.waiting import wait_until

HOSTILE = [
    "a;id",
    "$(id)",
    "`id`",
    "-oProxyCommand=id",
    "a\nid",
    "a'b\"c",
    "  spaces  ",
    "*",
    "~",
    "A=b",
    "!x",
    "\\",
    "",
    "ü€",
    "#",
    "a\tb",
]


async def test_arguments_arrive_as_they_were_given(
    server: SshServer, records: Records, connections: SshConnections
) -> None:
    async with connections.use(records.of(server)) as ssh:
        done = await ssh.run(["printf", "%s\\0", *HOSTILE], check=True)
    assert done.stdout.decode().split("\0")[:-1] == HOSTILE


@pytest.mark.parametrize("word", ["A=b", "-x", "a;id", "if", "$(id)", "timeout 1"])
async def test_a_first_argument_is_a_command_and_nothing_else(
    word: str, server: SshServer, records: Records, connections: SshConnections
) -> None:
    async with connections.use(records.of(server)) as ssh:
        done = await ssh.run([word, "echo", "ran"])
    assert (done.status, done.stdout) == (127, b"")


@pytest.mark.parametrize("argv", [[], [""], ["echo", "a\0b"]])
async def test_what_cannot_be_a_command_is_refused(
    argv: list[str], server: SshServer, records: Records, connections: SshConnections
) -> None:
    async with connections.use(records.of(server)) as ssh:
        with pytest.raises(InvalidInput):
            await ssh.run(argv)


async def test_status_streams_and_input(server: SshServer, records: Records, connections: SshConnections) -> None:
    heard: list[tuple[str, bytes]] = []
    async with connections.use(records.of(server)) as ssh:
        done = await ssh.run(
            ["sh", "-c", "cat; echo bad >&2; exit 3"], stdin=b"in\n", on_output=lambda *each: heard.append(each)
        )
        assert (done.status, done.stdout, done.stderr, done.timed_out) == (3, b"in\n", b"bad\n", False)
        assert sorted(heard) == [("stderr", b"bad\n"), ("stdout", b"in\n")]
        with pytest.raises(CommandFailed, match=r"worker1: sh -c .* ended with status 3: bad"):
            await ssh.run(["sh", "-c", "echo bad >&2; exit 3"], check=True)
        with pytest.raises(
            CommandFailed, match=r"echo https://\*\*\*@h/x.* with status 3: https://\*\*\*@h/x"
        ) as caught:
            await ssh.run(["sh", "-c", "echo https://me:hidden@h/x; exit 3"], check=True)
        assert "hidden" not in str(caught.value)


async def test_a_signal_is_a_status(server: SshServer, records: Records, connections: SshConnections) -> None:
    async with connections.use(records.of(server)) as ssh:
        assert (await ssh.run(["sh", "-c", "kill -9 $$"])).status == 137


async def test_output_is_kept_up_to_a_limit(server: SshServer, records: Records, connections: SshConnections) -> None:
    size = 0

    def count(_: str, chunk: bytes) -> None:
        nonlocal size
        size += len(chunk)

    async with connections.use(records.of(server)) as ssh:
        done = await ssh.run(["head", "-c", str(MAX_OUTPUT * 3), "/dev/zero"], on_output=count)
    assert (len(done.stdout), done.truncated, size) == (MAX_OUTPUT, True, MAX_OUTPUT * 3)


async def test_the_host_ends_what_takes_too_long(
    server: SshServer, records: Records, connections: SshConnections
) -> None:
    async with connections.use(records.of(server)) as ssh:
        done = await ssh.run(["sleep", "3600"], timeout=0.2)
        assert done.timed_out
    wait_until(lambda: not any(each.name() == "sleep" for each in server.processes()), "sleep to end")


async def test_many_commands_share_a_connection(
    server: SshServer, records: Records, connections: SshConnections
) -> None:
    async with connections.use(records.of(server)) as ssh:
        done = await asyncio.gather(*(ssh.run(["echo", str(number)]) for number in range(40)))
    assert [each.text().strip() for each in done] == [str(number) for number in range(40)]


async def test_a_lost_connection_is_said_and_the_next_use_connects_anew(
    server: SshServer, records: Records, connections: SshConnections
) -> None:
    begun = asyncio.Event()
    host = records.of(server)
    async with connections.use(host) as ssh:
        running = asyncio.create_task(
            ssh.run(["sh", "-c", "echo on; sleep 3600"], timeout=3600, on_output=lambda *_: begun.set())
        )
        await begun.wait()
        await asyncio.to_thread(server.kill)
        with pytest.raises(HostUnreachable):
            await running
    with pytest.raises(HostUnreachable, match="cannot reach worker1"):
        async with connections.use(host):
            pass
    await asyncio.to_thread(server.start)
    async with connections.use(host) as ssh:
        assert (await ssh.run(["true"])).status == 0
