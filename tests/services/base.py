"""What the services of tests have in common."""

from __future__ import annotations

import os
import signal
import socket
import time
from abc import ABC, abstractmethod
from pathlib import Path
from types import TracebackType
from typing import Self


def free_port() -> int:
    """A TCP port of 127.0.0.1 that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def freeze(*pids: int) -> None:
    """SIGSTOP processes, and return when all their threads stand still: connections stay open and nothing answers.

    The signal alone stops nothing: on a busy machine the others go on until the thread that gets it has its turn.
    """
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    while any(not _stands_still(pid) for pid in pids):
        time.sleep(0.001)


def _stands_still(pid: int) -> bool:
    try:
        threads = [path.read_text() for path in Path(f"/proc/{pid}/task").glob("*/stat")]
    except (FileNotFoundError, ProcessLookupError):  # a thread has ended meanwhile
        return False
    return all(thread.rpartition(")")[2].split()[0] in "TtZX" for thread in threads)


class Managed(ABC):
    """A service that runs for as long as a `with` statement, and leaves nothing behind when it does not start."""

    @abstractmethod
    def start(self) -> None:
        """Start it and wait until it answers."""

    @abstractmethod
    def stop(self) -> None:
        """End it and remove what it has made. May be called twice."""

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
