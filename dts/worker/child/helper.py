"""The helper thread of a child: looks every so often after the message that the main thread works at.

What is to be looked after is in modules of their own: results that wait, time limits, orders to stop, jobs that are
better given away, a stuck event loop, leases.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Sequence
from typing import Protocol

from dts.worker.link.board import Board

INTERVAL = 0.05
"""Seconds between two looks: what is waited for is noticed 0.1 s later at the most."""


class Watcher(Protocol):
    """Looks after one thing about a message."""

    def look(self, now: float) -> None:
        """Look; `now` is by the monotonic clock."""


class Helper:
    """The thread. It sleeps while there is no work, and costs a job or a short message nothing.

    Each time that it runs, it says so on the board: while it cannot, some thread holds the interpreter's lock.
    """

    def __init__(self, board: Board) -> None:
        self._board = board
        self._watchers: Sequence[Watcher] = ()
        self._busy = threading.Event()
        self._thread = threading.Thread(target=self._run, name="dts-helper", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def watch(self, watchers: Sequence[Watcher]) -> None:
        """Look after one message from now on, or after none."""
        self._watchers = watchers
        if watchers and not self._busy.is_set():
            self._busy.set()

    def _run(self) -> None:
        sleep, monotonic = time.sleep, time.monotonic  # a function may replace those of the module
        while True:
            self._busy.wait()
            self._board.beat = monotonic()
            sleep(INTERVAL)
            watchers = self._watchers
            if not watchers:
                self._busy.clear()
                # A message that came between the look and the clear must not be missed.
                if self._watchers:
                    self._busy.set()
                continue
            for watcher in watchers:
                try:
                    watcher.look(monotonic())
                except OSError:
                    return  # the worker is gone, or a function has closed the socket: either ends the process
                except Exception as error:  # noqa: BLE001 - one watcher that a function broke must not stop the others
                    print(f"{type(watcher).__name__}: {error!r}", file=sys.__stderr__)
