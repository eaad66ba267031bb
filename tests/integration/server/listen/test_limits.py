"""What clients that nobody knows can do to a server: not much, however they try."""

from __future__ import annotations

import asyncio
import logging
import resource
import socket
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import msgspec
import psutil
import pytest

from dts.auth import Credentials, KeccakAuthenticator, Request
from dts.config import Settings
from dts.server.app import Server
from dts.server.listen.acceptor import Acceptor
from tests.integration.conftest import Api, Site
from tests.services.waiting import PATIENCE, within

Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]
MEBIBYTE = 1024 * 1024


@asynccontextmanager
async def serving(settings: Settings, **limits: Any) -> AsyncIterator[Api]:
    """A server with these limits, and its administrator."""
    changed = msgspec.structs.replace(settings, server=msgspec.structs.replace(settings.server, **limits))
    async with Server(changed) as server:
        secret = settings.server.admin_secret_file.read_text().strip()
        yield Api(f"http://127.0.0.1:{server.port}", Credentials("admin", secret))


@asynccontextmanager
async def connected(api: Api) -> AsyncIterator[Connection]:
    """A connection to the server."""
    reader, writer = await asyncio.open_connection(*api.url.removeprefix("http://").split(":"))
    try:
        yield reader, writer
    finally:
        writer.close()


def head(api: Api, method: str, path: str, size: int | None = None, *, signed: bool = True, body: bytes = b"") -> bytes:
    """The head of a request whose body has that size."""
    lines = [f"{method} {path} HTTP/1.1", f"Host: {api.url.removeprefix('http://')}"]
    lines.append("Transfer-Encoding: chunked" if size is None else f"Content-Length: {size}")
    if signed:
        request = Request.to(method, api.url + path)
        lines.append(f"Authorization: {KeccakAuthenticator(api.credentials).sign(request, body)}")
    return "\r\n".join([*lines, "", ""]).encode()


async def is_closed(reader: asyncio.StreamReader) -> bytes:
    """What comes until the other side closes the connection."""
    came = b""
    try:
        async with within():
            while chunk := await reader.read(65536):
                came += chunk
    except ConnectionError:
        pass  # it was closed while this side was still writing
    return came


async def test_a_head_that_trickles_is_cut_off(settings: Settings) -> None:
    async with serving(settings, head_timeout=0.5) as api, connected(api) as (reader, writer):

        async def trickle() -> None:
            for byte in head(api, "GET", "/health/live", 0):
                writer.write(bytes([byte]))
                await asyncio.sleep(0.2)

        trickling = asyncio.create_task(trickle())
        assert await is_closed(reader) == b""
        trickling.cancel()


async def test_who_says_nothing_is_cut_off_and_a_signed_waiter_is_not(settings: Settings) -> None:
    limits = {"head_timeout": 0.5, "body_timeout": 0.5, "idle_timeout": 0.5}
    async with serving(settings, **limits) as api:
        job = await api.call("POST", "/jobs/", {"function": "text/upper", "args": ["x"]}, status=201)
        request = head(api, "GET", f"/jobs/{job}?wait=4", 0)
        async with connected(api) as (reader, writer), connected(api) as (silent, _):
            writer.write(request)
            began = time.monotonic()
            assert await is_closed(silent) == b""
            assert b"200 OK" in await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), PATIENCE)
            assert time.monotonic() - began >= 3  # far longer than any of the limits
            await is_closed(reader)  # and then it is idle


@pytest.mark.parametrize("signed", [True, False])
async def test_a_body_that_trickles_is_cut_off(settings: Settings, *, signed: bool) -> None:
    async with serving(settings, body_timeout=0.5, body_rate=1e6) as api, connected(api) as (reader, writer):
        writer.write(head(api, "POST", "/jobs/", 1000, signed=signed))

        async def trickle() -> None:
            while True:
                writer.write(b"x")
                await asyncio.sleep(0.1)

        trickling = asyncio.create_task(trickle())
        answer = await is_closed(reader)
        assert (b"401" in answer) is not signed
        trickling.cancel()


@pytest.mark.parametrize("signed", [True, False])
async def test_an_endless_body_is_cut_off(site: Site, *, signed: bool) -> None:
    api = site.api()
    async with connected(api) as (reader, writer):
        writer.write(head(api, "POST", "/jobs/", signed=signed))
        chunk = b"10000\r\n" + b"x" * 0x10000 + b"\r\n"

        async def pour() -> None:
            while True:
                writer.write(chunk)
                await writer.drain()

        pouring = asyncio.create_task(pour())
        answer = await is_closed(reader)
        assert (b"413" if signed else b"401") in answer
        with pytest.raises(ConnectionError):
            await pouring


async def test_bodies_that_do_not_come_to_an_end_take_little_memory(settings: Settings) -> None:
    size, body = 8 * MEBIBYTE, b"x" * (8 * MEBIBYTE)
    async with serving(settings, max_body=size, body_memory=16 * MEBIBYTE) as api, AsyncExitStack() as stack:
        before = psutil.Process().memory_info().rss
        for number in range(60):
            _, writer = await stack.enter_async_context(connected(api))
            writer.transport.set_write_buffer_limits(0)
            sock = writer.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 64 * 1024)
            writer.write(head(api, "POST", "/jobs/", size, signed=number % 2 == 0, body=body))
            sending = asyncio.create_task(_send_slowly(writer, memoryview(body)[:-1]))
            stack.callback(sending.cancel)
        await asyncio.sleep(2)
        grown = psutil.Process().memory_info().rss - before
        assert grown < 100 * MEBIBYTE, grown / MEBIBYTE  # 480 if all were kept
        assert (await api.send("GET", "/whoami")).code == 200  # others are served meanwhile


async def _send_slowly(writer: asyncio.StreamWriter, data: memoryview) -> None:
    for start in range(0, len(data), 65536):
        writer.write(data[start : start + 65536])
        await writer.drain()
    await asyncio.sleep(60)


async def test_memory_of_bodies_is_given_back_when_their_senders_leave(settings: Settings) -> None:
    size = 8 * MEBIBYTE
    async with serving(settings, max_body=size, body_memory=16 * MEBIBYTE) as api:
        for _ in range(3):
            async with AsyncExitStack() as stack:
                for _ in range(4):
                    _, writer = await stack.enter_async_context(connected(api))
                    writer.write(head(api, "POST", "/jobs/", size))
                    writer.write(b"x" * 100_000)
                    await writer.drain()
        await api.call("POST", "/jobs/", {"function": "text/upper", "args": ["x" * 100]}, status=201)


async def test_the_oldest_unsigned_connection_of_an_address_makes_way(settings: Settings) -> None:
    async with serving(settings, unsigned_per_address=5) as api, AsyncExitStack() as stack:
        reader, writer = await stack.enter_async_context(connected(api))
        writer.write(head(api, "GET", "/whoami", 0))
        assert b"200 OK" in await reader.readuntil(b"\r\n\r\n")
        strangers = [await stack.enter_async_context(connected(api)) for _ in range(8)]
        for gone, _ in strangers[:3]:
            assert await is_closed(gone) == b""
        writer.write(head(api, "GET", "/whoami", 0))  # the signed one does not count
        await reader.readuntil(b"}}")
        assert b"200 OK" in await reader.readuntil(b"\r\n\r\n")
        last_reader, last_writer = strangers[-1]
        last_writer.write(head(api, "GET", "/health/live", 0))
        assert b"200 OK" in await last_reader.readuntil(b"\r\n\r\n")


async def test_a_full_server_has_room_for_who_signs(settings: Settings) -> None:
    async with serving(settings, max_connections=8, unsigned_per_address=8) as api, AsyncExitStack() as stack:
        for _ in range(30):
            await stack.enter_async_context(connected(api))
        for _ in range(3):
            assert (await api.send("GET", "/whoami")).code == 200


async def test_without_descriptors_connections_wait_and_the_log_says_so_once(caplog: pytest.LogCaptureFixture) -> None:
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    listening = socket.create_server(("127.0.0.1", 0), backlog=16)
    listening.setblocking(False)
    clients = [socket.create_connection(listening.getsockname()) for _ in range(5)]
    accepted: list[socket.socket] = []
    pauses = 0
    done = asyncio.Event()

    def take(connection: socket.socket, address: tuple[Any, ...]) -> None:
        accepted.append(connection)
        if len(accepted) == len(clients):
            done.set()

    def make_room() -> None:
        nonlocal pauses
        pauses += 1
        if pauses == 2:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)

    acceptor = Acceptor([listening], take, make_room)
    caplog.set_level(logging.INFO)
    try:
        with socket.socket() as probe:
            resource.setrlimit(resource.RLIMIT_NOFILE, (probe.fileno() + 1, limits[1]))
        spare = [socket.socket()]
        with pytest.raises(OSError, match="Too many open files"):
            spare.extend(iter(socket.socket, None))
        acceptor.start()
        await asyncio.wait_for(done.wait(), PATIENCE)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        acceptor.stop()
        for each in [listening, *clients, *accepted, *spare]:
            each.close()
    assert pauses == 2
    messages = [record.message for record in caplog.records if "acceptor" in record.name]
    assert len(messages) == 2
    assert "no new connections" in messages[0]
    assert "accepted again" in messages[1]


@pytest.mark.parametrize("length", ["9" * 18, "9" * 5000, "-1", "x", "1e9", ""])
async def test_any_content_length_is_refused_or_cut_off_without_an_error(
    site: Site, caplog: pytest.LogCaptureFixture, length: str
) -> None:
    async with connected(site.api()) as (reader, writer):
        writer.write(
            head(site.api(), "POST", "/jobs/", 0, signed=False).replace(b"Length: 0", f"Length: {length}".encode())
        )
        answer = await is_closed(reader)
        assert not answer or answer.startswith((b"HTTP/1.1 401", b"HTTP/1.1 400")), answer
    assert not [record for record in caplog.records if record.levelname in {"ERROR", "CRITICAL"}]


@pytest.mark.parametrize("length", ["8388608,8388608", "8388608, 8388608", "0000000000000000008388608"])
@pytest.mark.parametrize("path", ["/health/live", "/jobs/"])
async def test_no_spelling_of_a_length_has_an_unsigned_body_kept(site: Site, length: str, path: str) -> None:
    async with connected(site.api()) as (reader, writer):
        first = head(site.api(), "GET", path, 0, signed=False).replace(b"Length: 0", f"Length: {length}".encode())
        assert length.encode() in first
        writer.write(first)
        answer = await is_closed(reader)
        assert answer.startswith((b"HTTP/1.1 401", b"HTTP/1.1 405", b"HTTP/1.1 400")), answer
