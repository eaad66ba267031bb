"""An HTTP proxy that knows one server by any name: CONNECT, and requests with the whole URL in their first line."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from urllib.parse import urlsplit

END = b"\r\n\r\n"


class HttpProxy:
    """Passes everything on to `port` of this machine. `authorization` is what a client has to send, if anything.

    `seen` has the first lines of requests to the proxy, `refuses` an answer to all of them.
    """

    def __init__(self, port: int, *, authorization: str = "") -> None:
        self.seen: list[str] = []
        self.refuses = b""
        self.port = 0
        self._server_port = port
        self._authorization = authorization
        self._tasks: set[asyncio.Task[None]] = set()

    @asynccontextmanager
    async def serve(self) -> AsyncIterator[HttpProxy]:
        """The proxy, until it is left."""
        server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            server.close()
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._serve(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            up_reader, up_writer = await asyncio.open_connection("127.0.0.1", self._server_port)
            try:
                while True:
                    head = (await reader.readuntil(END)).decode()
                    if not await self._request(head, reader, writer, up_reader, up_writer):
                        break
            finally:
                up_writer.close()
        writer.close()

    async def _request(
        self,
        head: str,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        up_reader: asyncio.StreamReader,
        up_writer: asyncio.StreamWriter,
    ) -> bool:
        """Serve one request; whether another one may follow."""
        lines = head.split("\r\n")
        self.seen.append(lines[0])
        if self.refuses:
            writer.write(self.refuses)
            return False
        if self._authorization and f"Proxy-Authorization: {self._authorization}" not in lines:
            writer.write(b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n")
            return False
        method, target, version = lines[0].split(" ")
        if method == "CONNECT":
            writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
            await asyncio.gather(_pump(reader, up_writer), _pump(up_reader, writer))
            return False
        url = urlsplit(target)
        assert url.scheme == "http", "a request to a proxy has the whole URL"
        path = f"{url.path}?{url.query}" if url.query else url.path
        own = [line for line in lines[1:] if not line.startswith("Proxy-")]
        up_writer.write("\r\n".join([f"{method} {path} {version}", *own]).encode() + await _body(head, reader))
        answer = await up_reader.readuntil(END)
        writer.write(answer + await _body(answer.decode(), up_reader))
        return True


async def _body(head: str, reader: asyncio.StreamReader) -> bytes:
    fields = dict(line.lower().split(": ", 1) for line in head.split("\r\n")[1:] if ": " in line)
    return await reader.readexactly(int(fields.get("content-length", 0)))


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()
    writer.close()
