"""Keeps a child able to work whatever its functions do to the process that they share with it.

All functions of a child are of one namespace, so what they change for each other is their own matter. What is looked
at here, after each message, is what the child itself needs: little of it is put back, and where that is not enough
the process is replaced.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]
import os
import resource
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress

from dts.worker.child.state.builtins_check import BuiltinsCheck

MAX_ZOMBIES = 16
"""Ended processes that nobody has waited for, beyond which a child is replaced: they are orphans of what functions have
started, or a later job may still ask how they ended, and which is which cannot be told."""

_USED_UP = 0.5
"""The part of the descriptors that a process may have, over which its functions have leaked too many."""


class Upkeep:
    """The state of the process that the child relies on. `signals` are those that it must be able to get."""

    def __init__(self, signals: Sequence[int]) -> None:
        self._signals = tuple(signals)
        self._ignored = [(number, _signal.getsignal(number)) for number in (signal.SIGTERM, signal.SIGINT)]
        self._switching = sys.getswitchinterval()
        self._files = [_file_of(fd) for fd in range(3)]
        _, self._most_data = resource.getrlimit(resource.RLIMIT_DATA)
        self._builtins = BuiltinsCheck()

    def check(self) -> str:
        """Put back what the child needs. Returns why this process must be replaced; empty if it need not."""
        try:
            if said := self._builtins.examine():
                return said
            self._restore()
            if resource.getrlimit(resource.RLIMIT_DATA)[1] != self._most_data:
                return "a function lowered how much memory the process may take"
            return self._broken_files() or _leaks()
        except Exception as error:  # noqa: BLE001 - whatever fails here, a function has broken it
            return f"what a function changed cannot be put right: {type(error).__name__}: {error}"

    def _restore(self) -> None:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, self._signals)
        for number, handler in self._ignored:  # a service manager signals all processes: that must end no child
            if _signal.getsignal(number) == signal.SIG_DFL:
                signal.signal(number, handler)
        if sys.getswitchinterval() != self._switching:  # or the helper thread may never run
            sys.setswitchinterval(self._switching)

    def _broken_files(self) -> str:
        """Which standard stream is gone: what is opened next would get its number, and the output of others."""
        for fd, file in enumerate(self._files):
            if _file_of(fd) != file:
                return f"a function closed descriptor {fd}, or made it another one"
        for name in ("stdout", "stderr"):
            if getattr(getattr(sys, name), "closed", False) is True:
                return f"a function closed sys.{name}"
        return ""


def _file_of(fd: int) -> tuple[int, int] | None:
    """What tells the file behind a descriptor from all others; None if it is closed."""
    try:
        status = os.fstat(fd)
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _leaks() -> str:
    """What functions have left in this process that it will run out of."""
    most, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest = os.dup(0)  # the first free number: those below it are in use
    os.close(lowest)
    if 0 < most < lowest / _USED_UP:
        return f"functions have left {lowest} descriptors open"
    with suppress(ChildProcessError):  # which is the usual case: no process at all
        ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        if ended is not None and (count := _zombies()) > MAX_ZOMBIES:
            return f"functions have left {count} ended processes that nobody waits for"
    return ""


def _zombies() -> int:
    """How many child processes have ended and nobody has waited for."""
    count = 0
    for task in os.listdir("/proc/self/task"):
        with open(f"/proc/self/task/{task}/children", "rb") as file:
            count += sum(map(_has_ended, file.read().decode().split()))
    return count


def _has_ended(pid: str) -> bool:
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return file.read().rpartition(b") ")[2][:1] == b"Z"
    except OSError:
        return False
