"""The child's end of the socket to its worker."""

from __future__ import annotations

import select
import socket
import threading
from collections import deque

from dts.errors import WireError
from dts.worker.link.frames import Frame, FrameReader, Kind, pack_header

_READ_SIZE = 256 * 1024


class Channel:
    """Sends and receives frames. Threads may send at the same time."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        self._reader = FrameReader()
        self._frames: deque[Frame] = deque()
        self.heard = self._frames
        """What has been read and not received."""
        self._sending = threading.Lock()
        self._poll: select.epoll | None = None

    def send(self, frame: Frame) -> None:
        """Send a frame. Raises OSError when the worker is gone."""
        with self._sending:
            self._socket.sendall(pack_header(frame) + frame.body)

    def close(self) -> None:
        """Neither send nor receive any more; the socket stays open in other processes."""
        self._socket.close()
        if self._poll is not None:
            self._poll.close()

    def receive(self) -> Frame | None:
        """Wait for the next frame; None when the worker has closed its end.

        Raises:
            WireError: a function has read from the socket, so that part of what the worker sent is missing.
        """
        return self._frames.popleft() if self._frames or self._fill() else None

    def await_go(self, ticket: int) -> bool:
        """Wait for the GO of a message, and keep what else comes; False when the worker has closed its end."""
        seen = 0
        while True:
            for frame in list(self._frames)[seen:]:
                if frame.kind == Kind.GO and frame.ticket == ticket:
                    self._frames.remove(frame)
                    return True
            seen = len(self._frames)
            if not self._fill():
                return False

    def fileno(self) -> int:
        """A descriptor that is readable when the socket is.

        Not that of the socket, since an event loop makes what it watches non-blocking, and a thread that sends must be
        able to wait.
        """
        if self._poll is None:
            self._poll = select.epoll()
            self._poll.register(self._socket.fileno(), select.EPOLLIN)
        return self._poll.fileno()

    def hear(self) -> bool:
        """Read what has come, which must be something; False at the end of what can be understood."""
        data = self._socket.recv(_READ_SIZE)
        self._frames += self._reader.feed(data)
        return bool(data) and not self._reader.broken

    def peek(self) -> Frame | None:
        """The next frame, if it has been read already."""
        return self._frames[0] if self._frames else None

    def take_go(self, tickets: set[int]) -> int:
        """The ticket of a GO of one of these messages, if one has been read already; 0 for none."""
        for frame in self._frames:
            if frame.kind == Kind.GO and frame.ticket in tickets:
                self._frames.remove(frame)
                return frame.ticket
        return 0

    def _fill(self) -> bool:
        """Wait until there is one more frame at least; False at the end of the stream."""
        while data := self._socket.recv(_READ_SIZE):
            if frames := self._reader.feed(data):
                self._frames += frames
                return True
            if self._reader.broken:
                raise WireError("a function has read what the worker sent to this process")
        return False
