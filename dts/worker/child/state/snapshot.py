"""What functions may change of their process, put right after each message: that a job runs in the same surroundings
whatever has run before it. What cannot be put right makes the process one to be replaced.

It is looked at after every message, which may be one short job. So calls of C that tell whether anything has changed
come first, and what makes objects of Python's out of that only where something has.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]
import errno
import locale
import os
import resource
import signal
import socket
import sys
import threading
from contextlib import suppress
from typing import Any

from dts.worker.attempt.introspection import cause_of, is_a
from dts.worker.child.state.builtins_check import Vitals

MAX_ZOMBIES = 16
"""Ended processes that nobody has waited for, beyond which a child is replaced: they are orphans of what functions have
started, or belong to somebody who may still ask how they ended, and which is which cannot be told."""

_MAX_CAUSES = 100  # errors that are looked through: they may be causes of each other
_errno: Any = OSError.__dict__["errno"]

_SIGNALS = [
    number
    for number in signal.valid_signals()
    if number not in (signal.SIGKILL, signal.SIGSTOP) and number < signal.SIGRTMIN
]
_LIMITS = [
    getattr(resource, f"RLIMIT_{name}") for name in ("CPU", "FSIZE", "STACK", "CORE", "NPROC", "NOFILE", "AS", "NICE")
]
_TIMERS = signal.ITIMER_REAL, signal.ITIMER_VIRTUAL, signal.ITIMER_PROF
_USED_UP = 0.5
"""The part of the descriptors that a process may have, over which its functions have leaked too many."""
_handler_of = _signal.getsignal  # that of `signal` takes twenty times as long, to make an enum of it


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
        self._files = [file_of(fd) for fd in range(3)]
        self._handlers = [_handler_of(number) for number in _SIGNALS]
        self._mask: set[int] = _signal.pthread_sigmask(signal.SIG_BLOCK, ())
        self._locale = locale.setlocale(locale.LC_ALL)
        self._interpreter = _interpreter()
        self._limits = [resource.getrlimit(number) for number in _LIMITS]
        _, self._most_data = resource.getrlimit(resource.RLIMIT_DATA)
        self._nice, self._cpus = os.getpriority(os.PRIO_PROCESS, 0), os.sched_getaffinity(0)
        self._vitals = Vitals()

    def restore(self) -> str:
        """Undo what has changed. Returns why this process cannot be trusted any more; empty if it can."""
        try:
            return self._restore()
        except Exception as error:  # noqa: BLE001 - whatever fails here, a function has broken it
            return f"what a function changed cannot be put right: {type(error).__name__}: {error}"

    def _restore(self) -> str:
        if said := self._vitals.examine():
            return said
        for fd, file in enumerate(self._files):
            if file_of(fd) != file:
                return f"a function closed descriptor {fd}, or made it another one"
        streams = sys.stdin, sys.stdout, sys.stderr
        if streams != self._streams:
            sys.stdin, sys.stdout, sys.stderr = self._streams
        if any([stream is not None and stream.closed for stream in self._streams]):
            return "a function closed a standard stream"
        self._restore_process()
        self._restore_signals()
        self._restore_rights()
        if sys.path != self._path:
            sys.path[:] = self._path
        if sys.meta_path != self._meta_path:
            sys.meta_path[:] = self._meta_path
        if _interpreter() != self._interpreter:
            self._restore_interpreter()
        return _leaks(self._limits[_LIMITS.index(resource.RLIMIT_NOFILE)][0])

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
        if locale.setlocale(locale.LC_ALL) != self._locale:
            locale.setlocale(locale.LC_ALL, self._locale)

    def _restore_signals(self) -> None:
        if [*map(_handler_of, _SIGNALS)] != self._handlers:
            for number, handler in zip(_SIGNALS, self._handlers, strict=True):
                if handler is not None and _handler_of(number) != handler:
                    signal.signal(number, handler)
        if _signal.pthread_sigmask(signal.SIG_BLOCK, ()) != self._mask:
            signal.pthread_sigmask(signal.SIG_SETMASK, self._mask)
        for timer in _TIMERS:
            if signal.getitimer(timer)[0]:
                signal.setitimer(timer, 0)

    def _restore_rights(self) -> None:
        """What the system lets the process use. Raises OSError or ValueError where there is no way back."""
        for number, limit in zip(_LIMITS, self._limits, strict=True):
            if resource.getrlimit(number) != limit:
                resource.setrlimit(number, limit)
        soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
        if hard != self._most_data:  # the other one is set for each message
            resource.setrlimit(resource.RLIMIT_DATA, (soft, self._most_data))
        if os.getpriority(os.PRIO_PROCESS, 0) != self._nice:
            os.setpriority(os.PRIO_PROCESS, 0, self._nice)
        if os.sched_getaffinity(0) != self._cpus:
            os.sched_setaffinity(0, self._cpus)

    def _restore_interpreter(self) -> None:
        recursion, switching, trace, profile, thread_trace, thread_profile, patience = self._interpreter
        sys.setrecursionlimit(recursion)
        sys.setswitchinterval(switching)
        sys.settrace(trace)
        sys.setprofile(profile)
        threading.settrace(thread_trace)
        threading.setprofile(thread_profile)
        socket.setdefaulttimeout(patience)


def _interpreter() -> tuple[int, float, Any, Any, Any, Any, float | None]:
    """Settings of the interpreter and its modules that hold for all code."""
    return (
        sys.getrecursionlimit(),
        sys.getswitchinterval(),
        sys.gettrace(),
        sys.getprofile(),
        threading.gettrace(),
        threading.getprofile(),
        socket.getdefaulttimeout(),
    )


def file_of(fd: int) -> tuple[int, int] | None:
    """What tells the file behind a descriptor from all others; None if it is closed."""
    try:
        status = os.fstat(fd)
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _leaks(descriptors: int) -> str:
    """What functions have left in this process that it will run out of; `descriptors` is how many it may have."""
    lowest = os.dup(0)  # the first free number: those below it are in use
    os.close(lowest)
    if 0 < descriptors < lowest / _USED_UP:
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
        with open(f"/proc/self/task/{task}/children", encoding="ascii") as file:
            count += sum(map(_has_ended, file.read().split()))
    return count


def _has_ended(pid: str) -> bool:
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return file.read().rpartition(b") ")[2][:1] == b"Z"
    except OSError:
        return False


def _raw_environment() -> dict[bytes, bytes]:
    """The environment as os.environ keeps it: to compare that takes 1 µs, to compare os.environ itself 50."""
    raw: dict[bytes, bytes] = getattr(os.environ, "_data", {})
    return raw


def wants_descriptors(error: BaseException | None) -> bool:
    """Whether something failed since there are no more file descriptors to be had."""
    for _ in range(_MAX_CAUSES):
        if error is None:
            break
        if is_a(error, OSError) and _errno.__get__(error) in (errno.EMFILE, errno.ENFILE):
            return True
        error = cause_of(error)
    return False
