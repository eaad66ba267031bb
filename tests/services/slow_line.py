"""A line to a server that is slow, or dies without a word: a proxy that passes on so many bytes a second."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

_PIECE = 4096  # bytes


class SlowLine:
    """Passes connections on to `port`; upwards at most `rate` bytes a second for all of them together."""

    def __init__(self, port: int, rate: float = float("inf")) -> None:
        self.rate = rate
        self.connections = 0
        self.url = ""
        self._port = port
        self._turn = asyncio.Lock()
        self._open = asyncio.Event()
        self._open.set()
        self._dead: set[int] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    @asynccontextmanager
    async def serve(self) -> AsyncIterator[SlowLine]:
        """The line, until it is left."""
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _PIECE)  # or the kernel takes a block at once
        sock.bind(("127.0.0.1", 0))
        server = await asyncio.start_server(self._pass_on, sock=sock, limit=_PIECE)
        self.url = f"http://127.0.0.1:{sock.getsockname()[1]}"
        yield self
        server.close()
        for task in self._tasks:
            task.cancel()

    def kill_silently(self) -> None:
        """Nothing passes on today's connections any more, and neither side hears of it."""
        self._dead.update(range(1, self.connections + 1))

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        number = self.connections
        up_reader, up_writer = await asyncio.open_connection("127.0.0.1", self._port)
        for work in (self._pipe(reader, up_writer, number, self.rate), self._pipe(up_reader, writer, number, 0.0)):
            task = asyncio.create_task(work)
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _pipe(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, number: int, rate: float) -> None:
        with suppress(ConnectionError):
            while data := await reader.read(_PIECE):
                if rate:
                    async with self._turn:
                        await asyncio.sleep(len(data) / self.rate)
                if number in self._dead:
                    await asyncio.Event().wait()
                writer.write(data)
                await writer.drain()
        writer.close()
