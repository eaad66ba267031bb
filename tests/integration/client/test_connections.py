"""Connections to the server: kept for the next request, and given up without a word when the other side closes them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import pytest

from dts.auth import Credentials
from dts.client.connections import ConnectionLost, Connections
from dts.client.transport import Transport
from dts.errors import ServerUnavailable

Peer = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@dataclass
class Script:
    """A server that speaks plain HTTP: for each request, by its path, what a test wants to happen."""

    port: int = 0
    connections: int = 0
    asked: list[str] = field(default_factory=list)
    at_once: int = 0
    most_at_once: int = 0
    hold: asyncio.Event | None = None
    peers: list[asyncio.StreamWriter] = field(default_factory=list)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.peers.append(writer)
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                path = head.split()[1].decode()
                self.asked.append(path)
                self.at_once += 1
                self.most_at_once = max(self.most_at_once, self.at_once)
                if self.hold is not None:
                    await self.hold.wait()
                self.at_once -= 1
                await self.answer(path, writer)
        except asyncio.IncompleteReadError:
            pass
        finally:
            writer.close()

    async def answer(self, path: str, writer: asyncio.StreamWriter) -> None:
        body = b'{"result": "done"}'
        close = b"Connection: close\r\n" if path == "/last" else b""
        if path == "/half":
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n" + body)
            writer.close()
        elif path == "/vanish" and self.asked.count("/vanish") == 1:
            writer.transport.abort()
        elif path == "/rubbish":
            writer.write(b"SSH-2.0-OpenSSH_9.2\r\n\r\n")
            writer.close()
        else:
            writer.write(b"HTTP/1.1 200 OK\r\n%sContent-Length: %d\r\n\r\n%s" % (close, len(body), body))


@pytest.fixture
async def script() -> AsyncIterator[Script]:
    script = Script()
    server = await asyncio.start_server(script.serve, "127.0.0.1", 0)
    script.port = server.sockets[0].getsockname()[1]
    yield script
    server.close()
    for writer in script.peers:
        writer.close()
    await server.wait_closed()


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
async def transport(script: Script, said: list[str]) -> AsyncIterator[Transport]:
    transport = Transport(
        f"http://127.0.0.1:{script.port}", Credentials("alice", "secret"), max_clients=3, notify=said.append
    )
    yield transport
    transport.close()


async def test_requests_one_after_another_share_a_connection(script: Script, transport: Transport) -> None:
    for _ in range(5):
        assert await transport.call("GET", "/") == "done"
        assert await transport.call("POST", "/", {"a": 1}) == "done"
    assert script.connections == 1


async def test_no_more_requests_at_once_than_connections(script: Script, transport: Transport) -> None:
    script.hold = asyncio.Event()
    calls = [asyncio.create_task(transport.call("GET", "/")) for _ in range(10)]
    while script.at_once < 3:
        await asyncio.sleep(0)
    script.hold.set()
    assert await asyncio.gather(*calls) == ["done"] * 10
    assert (script.connections, script.most_at_once) == (3, 3)


async def test_a_server_that_closes_its_connection_gets_a_new_one(script: Script, transport: Transport) -> None:
    for _ in range(3):
        assert await transport.call("GET", "/last") == "done"
    assert script.connections == 3


@pytest.mark.parametrize("repeatable", [True, False])
async def test_a_connection_that_was_closed_while_idle_is_not_missed(
    script: Script, transport: Transport, said: list[str], repeatable: bool
) -> None:
    assert await transport.call("GET", "/") == "done"
    script.peers[0].close()
    await script.peers[0].wait_closed()
    assert await transport.call("POST", "/", {}, repeatable=repeatable) == "done"
    assert (script.connections, said) == (2, [])


async def test_a_kept_connection_that_breaks_is_replaced_at_once(
    script: Script, transport: Transport, said: list[str]
) -> None:
    assert await transport.call("GET", "/") == "done"
    assert await transport.call("GET", "/vanish") == "done"
    assert (script.asked, said) == (["/", "/vanish", "/vanish"], [])


async def test_what_may_have_been_done_is_not_repeated_on_a_new_connection(
    script: Script, transport: Transport
) -> None:
    assert await transport.call("GET", "/") == "done"
    with pytest.raises(ServerUnavailable, match="may have been accepted or not"):
        await transport.call("POST", "/vanish", {}, repeatable=False)
    assert script.asked == ["/", "/vanish"]


@pytest.mark.parametrize("path", ["/half", "/rubbish"])
async def test_half_an_answer_is_none(script: Script, transport: Transport, path: str) -> None:
    with pytest.raises(ServerUnavailable, match="it closed the connection"):
        await transport.request("GET", path, give_up_after=0.01)


async def test_a_request_that_is_cancelled_takes_its_connection_along(script: Script) -> None:
    connections = Connections(f"http://127.0.0.1:{script.port}", tls=None, most=1, max_answer=1000)
    script.hold = asyncio.Event()
    with pytest.raises(TimeoutError):
        await connections.fetch("GET", "/slow", {}, None, connect_timeout=5, timeout=0.05)
    script.hold.set()
    answer = await connections.fetch("GET", "/next", {}, None, connect_timeout=5, timeout=5)
    assert (answer.status, answer.body) == (200, b'{"result": "done"}')
    assert script.connections == 2
    connections.close()


async def test_an_answer_that_is_too_large_is_refused(script: Script) -> None:
    connections = Connections(f"http://127.0.0.1:{script.port}", tls=None, most=1, max_answer=10)
    with pytest.raises(ConnectionLost):
        await connections.fetch("GET", "/", {}, None, connect_timeout=5, timeout=5)
    connections.close()
