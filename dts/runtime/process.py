"""The life of a process: an event loop by uvloop, signals, exit codes."""

from __future__ import annotations

import asyncio
import ctypes
import logging
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Sequence

import uvloop

from dts.errors import ConfigError, DtsError
from dts.runtime.tasks import wait_first

logger = logging.getLogger(__name__)

EXIT_OK = 0
EXIT_FAILED = 1
EXIT_USAGE = 2
"""The command line or the configuration is wrong."""

_PR_SET_DUMPABLE = 4

_STREAMS = (
    (0, "stdin", os.O_RDONLY, "r"),
    (1, "stdout", os.O_WRONLY, "w"),
    (2, "stderr", os.O_WRONLY, "w"),
)


class Shutdown:
    """Tells the main coroutine of a process that it was asked to end.

    The first TERM or INT sets `requested`, and `signal` says which it was; a second INT sets `hurry`.
    """

    def __init__(self) -> None:
        self.requested = asyncio.Event()
        self.hurry = asyncio.Event()
        self.signal = signal.SIGINT

    def install(self, *others: signal.Signals) -> None:
        """Handle TERM, INT and `others` in the running loop from here on."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT, *others):
            loop.add_signal_handler(number, self._on_signal, number)

    def _on_signal(self, number: signal.Signals) -> None:
        if self.requested.is_set() and number == signal.SIGINT:
            self.hurry.set()
        if not self.requested.is_set():
            logger.info("got %s: finishing", number.name)
            self.signal = number
        self.requested.set()

    async def wait(self, *others: asyncio.Event) -> None:
        """Wait until the process was asked to end, or one of the other events is set."""
        await wait_first(self.requested, *others)


def keep_private() -> None:
    """Let no other process of the same user read this one's memory, environment and descriptors (prctl(2), Linux).

    A worker's functions may run as its user: without this they could read the keys and URLs of the processes of DTS in
    /proc, or trace them. For a debugger it takes root. It ends with an exec, so that children start as usual.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)


def fill_closed_streams() -> frozenset[int]:
    """Open /dev/null as each of the standard streams that was closed from the start (`<&-`); returns which these were.

    Else the first file or connection that is opened would take its number: what is printed would go there, and libuv
    aborts the process when it closes that. What is printed to a closed stream goes nowhere.
    """
    closed = set()
    for number, name, flags, mode in _STREAMS:
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, flags), True)  # the lowest number that is free is this one
            closed.add(number)
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, mode, encoding="utf-8", closefd=False))  # noqa: SIM115
    return frozenset(closed)


def run(
    main: Callable[[Shutdown], Awaitable[int]],
    *,
    signals: Sequence[signal.Signals] = (),
    usage: int = EXIT_USAGE,
    failed: int = EXIT_FAILED,
) -> int:
    """Run `main` on uvloop with signals handled; returns the exit code. DtsErrors are said in a sentence.

    `signals` are others that ask the process to end; `usage` and `failed` are the exit codes of a ConfigError and of
    any other.
    """
    fill_closed_streams()

    async def body() -> int:
        shutdown = Shutdown()
        shutdown.install(*signals)
        return await main(shutdown)

    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(body())
    except ConfigError as error:
        print(f"{_program()}: {error.message}", file=sys.stderr)  # noqa: T201
        return usage
    except DtsError as error:
        print(f"{_program()}: {error.message}", file=sys.stderr)  # noqa: T201
        return failed


def _program() -> str:
    package = sys.modules["__main__"].__spec__
    return package.name.removesuffix(".__main__") if package else sys.argv[0].rpartition("/")[2]
