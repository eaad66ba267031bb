"""Descriptors that this process shares with others: streams that a shell has opened, which may not block."""

from __future__ import annotations

import os
import re
import select

_NUMBERED = re.compile(r"(?:/dev/fd|/proc/self/fd)/(\d+)")
_MOST_LINKS = 40  # as the kernel follows


def shared_descriptor(path: str) -> int | None:
    """The number of the open descriptor that a path such as /dev/stdout stands for; None for any other path.

    To open such a path again would begin at byte 0 of the file, over what others have written there.
    """
    for _ in range(_MOST_LINKS):
        if (match := _NUMBERED.fullmatch(os.path.abspath(path))) is not None:
            return int(match[1])
        try:
            path = os.path.join(os.path.dirname(path), os.readlink(path))
        except OSError:
            return None
    return None


def write_some(descriptor: int, data: bytes | memoryview) -> int:
    """Write some bytes and return how many; waits where the descriptor itself does not (O_NONBLOCK)."""
    while True:
        try:
            return os.write(descriptor, data)
        except BlockingIOError:
            wait_for(descriptor, select.POLLOUT)


def read_some(descriptor: int, size: int) -> bytes:
    """At most `size` bytes, none at the end; waits where the descriptor itself does not (O_NONBLOCK)."""
    while True:
        try:
            return os.read(descriptor, size)
        except BlockingIOError:
            wait_for(descriptor, select.POLLIN)


def wait_for(descriptor: int, event: int, seconds: float | None = None) -> bool:
    """Wait until a descriptor can be read or written, or is closed; whether it was so within `seconds`."""
    poll = select.poll()
    poll.register(descriptor, event)
    return bool(poll.poll(None if seconds is None else seconds * 1000))
