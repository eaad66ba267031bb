"""The life of a process: an event loop by uvloop, signals, exit codes."""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
from collections.abc import Awaitable, Callable

import uvloop

from dts.errors import ConfigError, DtsError

logger = logging.getLogger(__name__)

EXIT_OK = 0
EXIT_FAILED = 1
EXIT_USAGE = 2
"""The command line or the configuration is wrong."""


class Shutdown:
    """Tells the main coroutine of a process that it was asked to end.

    The first TERM or INT sets `requested`; a second INT sets `hurry`.
    """

    def __init__(self) -> None:
        self.requested = asyncio.Event()
        self.hurry = asyncio.Event()

    def install(self) -> None:
        """Handle TERM and INT in the running loop from here on."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._on_signal, number)

    def _on_signal(self, number: signal.Signals) -> None:
        if self.requested.is_set() and number == signal.SIGINT:
            self.hurry.set()
        if not self.requested.is_set():
            logger.info("got %s: finishing", number.name)
        self.requested.set()

    async def wait(self, *others: asyncio.Event) -> None:
        """Wait until the process was asked to end, or one of the other events is set."""
        waits = [asyncio.create_task(event.wait()) for event in (self.requested, *others)]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()


def run(main: Callable[[Shutdown], Awaitable[int]]) -> int:
    """Run `main` on uvloop with signals handled; returns the exit code. DtsErrors are said in a sentence."""

    async def body() -> int:
        shutdown = Shutdown()
        shutdown.install()
        return await main(shutdown)

    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(body())
    except ConfigError as error:
        print(f"{_program()}: {error.message}", file=sys.stderr)  # noqa: T201
        return EXIT_USAGE
    except DtsError as error:
        print(f"{_program()}: {error.message}", file=sys.stderr)  # noqa: T201
        return EXIT_FAILED


def _program() -> str:
    package = sys.modules["__main__"].__spec__
    return package.name.removesuffix(".__main__") if package else sys.argv[0].rpartition("/")[2]
