"""What moves on one request: whether bytes still go out or come in, and for how long none did.

A deadline in seconds from the start of a request punishes a slow line, on which everything takes long and nothing is
wrong. Here the clock starts again with every byte that the other side has taken or sent.
"""

from __future__ import annotations

import asyncio
import fcntl
import struct
import termios
from collections.abc import Callable

from tornado.iostream import IOStream

_INTERVAL = 1.0  # seconds between two looks at a request, unless its limit asks for more
_STOOD_STILL = 2.0  # seconds that a look may be late on a busy machine; more, and this process did not run


class Traffic:
    """Watches one request, which is over when no byte has moved for `limit` seconds, and `wait` more once it is sent.

    The server was asked to hold its answer back for `wait` seconds. `on_look` is called about once a second;
    `on_pause` with the seconds that this process stood still (suspended, or starved), which count for nobody.
    """

    def __init__(
        self,
        wait: float = 0.0,
        *,
        interval: float = _INTERVAL,
        on_look: Callable[[Traffic], None] | None = None,
        on_pause: Callable[[float], None] | None = None,
    ) -> None:
        self.size = 0
        self.received = 0
        self._wait = wait
        self._interval = interval
        self._on_look = on_look
        self._on_pause = on_pause
        self._stream: IOStream | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._state = (0, 0)

    def begin(self, limit: float, expire: Callable[[], None]) -> None:
        """Begin to watch; `expire` is called when the request is over."""
        self._loop = asyncio.get_running_loop()
        self._limit = limit
        self._expire = expire
        self.began = self._moved = self._loop.time()
        self._look_again()

    def sending(self, stream: IOStream, size: int) -> None:
        """`size` bytes are about to go out on `stream`."""
        self._stream = stream
        self.size = size
        self._state = self._progress()
        self._moved = self._loop.time()

    def received_some(self, size: int) -> None:
        """So many bytes of the answer came in."""
        self.received += size

    def end(self) -> None:
        """The request has ended."""
        if self._timer is not None:
            self._timer.cancel()
        self._stream = None

    @property
    def seconds(self) -> float:
        """How long the request has taken so far, without the time that this process stood still."""
        return self._loop.time() - self.began

    @property
    def sending_took(self) -> float:
        """How many seconds it took until the other side had taken all bytes but those that it has still to take."""
        return self._moved - self.began

    @property
    def quiet(self) -> float:
        """For how many seconds nothing has moved, though it should have."""
        allowed = 0.0 if self.unsent or self.received else self._wait
        return max(0.0, self._loop.time() - self._moved - allowed)

    @property
    def unsent(self) -> int:
        """How many bytes of the request the other side has not taken yet."""
        return self._progress()[0]

    def _progress(self) -> tuple[int, int]:
        """Bytes that are still to go, and bytes that have come: both change only when something moves."""
        stream = self._stream
        if stream is None or stream.closed():
            return 0, self.received
        # What Tornado has not passed on yet, of which it gives no public account, and what waits in the kernel.
        waiting: int = stream._total_write_index - stream._total_write_done_index
        return waiting + _unacknowledged(stream), self.received

    def _look_again(self) -> None:
        self._due = self._loop.time() + min(self._interval, self._limit)
        self._timer = self._loop.call_at(self._due, self._look)

    def _look(self) -> None:
        now = self._loop.time()
        late = now - self._due
        if late > _STOOD_STILL:
            self.began += late
            self._moved += late
            if self._on_pause is not None:
                self._on_pause(late)
        state = self._progress()
        if state != self._state:
            self._state = state
            self._moved = now
        if self._on_look is not None:
            self._on_look(self)
        if self.quiet >= self._limit:
            self._expire()
        else:
            self._look_again()


def _unacknowledged(stream: IOStream) -> int:
    """Bytes in the kernel that the other side has not acknowledged; 0 on a system that does not say."""
    try:
        [count] = struct.unpack("i", fcntl.ioctl(stream.fileno(), termios.TIOCOUTQ, b"\0" * 4))
    except OSError:
        return 0
    return int(count)
