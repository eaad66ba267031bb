"""HUP and USR1, from the first moment on: without that, a HUP for a worker that is starting would end it."""

from __future__ import annotations

import signal
from collections.abc import Callable
from contextlib import AsyncExitStack


class Signals:
    """HUP and USR1 of a process. What comes before it can act on them is done when it can."""

    def __init__(self) -> None:
        self._asked: set[int] = set()

    def note(self) -> None:
        """Main thread: take note of them from here on, also before there is an event loop."""
        for number in (signal.SIGHUP, signal.SIGUSR1):
            signal.signal(number, lambda number, frame: self._asked.add(number))

    def heed(self, stack: AsyncExitStack, **acts: Callable[[], None]) -> None:
        """Act on them, given by their names, until the stack is closed; at once on those that have come."""
        import asyncio  # most of the time that this module would take before `note`

        loop = asyncio.get_running_loop()
        for name, act in acts.items():
            number = signal.Signals[name]
            loop.add_signal_handler(number, act)
            stack.callback(loop.add_signal_handler, number, self._asked.add, number)
            if number in self._asked:
                act()
