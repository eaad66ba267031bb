"""What functions may change of their process, put right after each message: that a job runs in the same surroundings
whatever has run before it.
"""

from __future__ import annotations

import locale
import os
import resource
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager

_RESERVE = 16 * 1024 * 1024  # bytes
_modules = sys.modules
_SIGNALS = [
    number
    for number in signal.valid_signals()
    if number not in (signal.SIGKILL, signal.SIGSTOP) and number < signal.SIGRTMIN
]


class Surroundings:
    """The state of the process that functions share."""

    def __init__(self) -> None:
        self._folder = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._cwd = os.getcwd()
        self._umask = os.umask(0o022)
        os.umask(self._umask)
        self._environment = dict(os.environ)
        self._raw: dict[bytes, bytes] = dict(_raw_environment())
        self._path, self._meta_path = list(sys.path), list(sys.meta_path)
        self._streams = sys.stdin, sys.stdout, sys.stderr
        self._handlers = {number: signal.getsignal(number) for number in _SIGNALS}
        self._mask = signal.pthread_sigmask(signal.SIG_BLOCK, ())
        self._locale = locale.setlocale(locale.LC_ALL)
        self._recursion = sys.getrecursionlimit()
        self._vital = [name for name in ("dts.worker.child", "os", "sys", "json", "importlib") if name in sys.modules]
        self._output = os.fstat(2)

    def restore(self) -> str:
        """Undo what has changed. Returns why this process cannot be trusted any more; empty if it can."""
        try:
            return self._restore()
        except Exception as error:  # noqa: BLE001 - whatever fails here, a function has broken it
            return f"what a function changed cannot be put right: {type(error).__name__}: {error}"

    def _restore(self) -> str:
        if sys.modules is not _modules or any(name not in _modules for name in self._vital):
            return "a function removed modules of the interpreter"
        status = os.fstat(2)
        if (status.st_dev, status.st_ino) != (self._output.st_dev, self._output.st_ino):
            return "a function closed its output"
        self._restore_process()
        if sys.path != self._path:
            sys.path[:] = self._path
        if sys.meta_path != self._meta_path:
            sys.meta_path[:] = self._meta_path
        if (sys.stdin, sys.stdout, sys.stderr) != self._streams:
            sys.stdin, sys.stdout, sys.stderr = self._streams
        if sys.getrecursionlimit() != self._recursion:
            sys.setrecursionlimit(self._recursion)
        return ""

    def _restore_process(self) -> None:
        try:
            moved = os.getcwd() != self._cwd
        except OSError:
            moved = True
        if moved:
            os.fchdir(self._folder)
        os.umask(self._umask)
        if _raw_environment() != self._raw:
            os.environ.clear()
            os.environ.update(self._environment)
        for number, handler in self._handlers.items():
            if signal.getsignal(number) != handler and handler is not None:
                signal.signal(number, handler)
        if signal.pthread_sigmask(signal.SIG_BLOCK, ()) != self._mask:
            signal.pthread_sigmask(signal.SIG_SETMASK, self._mask)
        if signal.getitimer(signal.ITIMER_REAL)[0]:
            signal.setitimer(signal.ITIMER_REAL, 0)
        if locale.setlocale(locale.LC_ALL) != self._locale:
            locale.setlocale(locale.LC_ALL, self._locale)


def _raw_environment() -> dict[bytes, bytes]:
    """The environment as os.environ keeps it: to compare that takes 1 µs, to compare os.environ itself 50."""
    raw: dict[bytes, bytes] = getattr(os.environ, "_data", {})
    return raw


class MemoryLimit:
    """Sets how much memory the process may take, beyond what it has when it starts."""

    def __init__(self) -> None:
        self._base = _data_size()
        self._limit = 0

    def set(self, limit: int) -> int:
        """Allow `limit` bytes more, or any number for 0; returns what the whole process may take then, 0 for any."""
        total = self._base + limit if limit else 0
        if limit != self._limit:
            self._limit = limit
            _, hard = resource.getrlimit(resource.RLIMIT_DATA)
            resource.setrlimit(resource.RLIMIT_DATA, (total or hard, hard))
        return total

    @contextmanager
    def relaxed(self) -> Iterator[None]:
        """Allow some more for a moment: to report that there is none left takes memory, too."""
        if not self._limit:
            yield
            return
        soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
        resource.setrlimit(resource.RLIMIT_DATA, (self._base + self._limit + _RESERVE, hard))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))


def _data_size() -> int:
    """Bytes of the process that count for RLIMIT_DATA."""
    with open("/proc/self/statm", "rb") as file:
        return int(file.read().split()[5]) * resource.getpagesize()


def resident_size(pid: int | str = "self") -> int:
    """Bytes of memory that a process holds; 0 when it is gone."""
    try:
        with open(f"/proc/{pid}/statm", "rb") as file:
            return int(file.read().split()[1]) * resource.getpagesize()
    except OSError:
        return 0
