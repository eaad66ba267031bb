"""The worker's end of the socket to a child, read and written by the event loop."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable

from dts.errors import WireError
from dts.worker.link.frames import Frame, FrameReader

logger = logging.getLogger(__name__)

_READ_SIZE = 256 * 1024


class FrameStream:
    """Reads frames and writes them.

    `on_frame` is called for each; `on_garbled` once, when there is something that is not a frame or cannot be acted on:
    nothing after that is read. `on_end` is called when the child has closed its end.
    """

    def __init__(
        self,
        sock: socket.socket,
        on_frame: Callable[[Frame], None],
        on_garbled: Callable[[], None],
        on_end: Callable[[], None],
    ) -> None:
        self.received = 0
        """Bytes that have come."""
        self._socket = sock
        self._on_frame, self._on_garbled, self._on_end = on_frame, on_garbled, on_end
        self._reader = FrameReader()
        self._garbled = False
        self._unsent = bytearray()
        self._loop = asyncio.get_running_loop()

    def listen(self) -> None:
        """Read from here on."""
        self._loop.add_reader(self._socket, self._on_readable)

    def read(self) -> bool:
        """Read what has come; False at the end of the stream. Raises OSError, BlockingIOError if nothing has come."""
        data = self._socket.recv(_READ_SIZE)
        self.received += len(data)
        try:
            for frame in self._reader.feed(data):
                self._on_frame(frame)
        except WireError:
            self._reader.broken = True
        except Exception as error:
            logger.error("a frame of a child cannot be handled", exc_info=error)
            self._reader.broken = True
        if self._reader.broken and not self._garbled:
            self._garbled = True
            self._on_garbled()
        return bool(data)

    def send(self, *parts: bytes) -> None:
        """Write bytes, at once or when the child has read what came before."""
        if self._unsent:
            self._unsent += b"".join(parts)
            return
        try:
            sent = self._socket.sendmsg(parts)
        except BlockingIOError:
            sent = 0
        except OSError:  # the child is dead, and its end is noticed elsewhere
            return
        if sent < sum(map(len, parts)):
            self._unsent += b"".join(parts)[sent:]
            self._loop.add_writer(self._socket, self._on_writable)

    def finish(self) -> None:
        """Close the way to the child, which reads to the end of what was sent. Raises OSError."""
        self._socket.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        """Close the socket."""
        self._loop.remove_reader(self._socket)
        self._loop.remove_writer(self._socket)
        self._socket.close()

    def _on_readable(self) -> None:
        try:
            if not self.read():
                self._loop.remove_reader(self._socket)
                self._on_end()
        except BlockingIOError:
            pass
        except OSError:
            self._loop.remove_reader(self._socket)

    def _on_writable(self) -> None:
        try:
            del self._unsent[: self._socket.send(self._unsent)]
        except BlockingIOError:
            return
        except OSError:
            self._unsent.clear()
        if not self._unsent:
            self._loop.remove_writer(self._socket)
