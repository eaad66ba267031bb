"""Whether a job leaves its process as it found it: the working directory, signal handlers, standard streams.

All jobs of a message run in one process. One that leaves that changed would have those after it run in the wrong
folder, or lose what they print, and nobody would know why: so it fails with an error that says what it has changed, and
the others go on in a fresh process. What it changes and puts back is nobody's business.

A look costs a few µs, as much as a short job. So it is taken after a job that has called what changes such things,
which is told by an audit hook (https://peps.python.org/pep-0578/) and by the functions of `signal` themselves; and else
at most once a millisecond, for what nothing tells of, and after the last job. When several short jobs have run since
the look before, nobody knows which of them it was, and each runs again alone.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]
import functools
import io
import os
import resource
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any, NamedTuple, TextIO

from dts.errors import ProcessChanged
from dts.worker.child import current_job
from dts.worker.child.active_batch import Errand
from dts.worker.child.state.snapshot import file_of

LOOK_EVERY = 0.001
"""Seconds of work between two looks at what nothing tells of."""

_EVENTS = frozenset(("os.chdir", "resource.setrlimit"))
_SIGNALS = (
    *(signal.SIGHUP, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2),
    *(signal.SIGPIPE, signal.SIGALRM, signal.SIGTERM, signal.SIGCHLD),
)
_OWN_LIMIT = (resource.RLIMIT_DATA,)  # the worker's, for memory limits
_LIMITS = {
    number: name
    for name, number in sorted(vars(resource).items(), reverse=True)  # RLIMIT_NOFILE after its other name
    if name.startswith("RLIMIT_") and number not in _OWN_LIMIT
}
_STREAMS = "stdin", "stdout", "stderr"
_handler_of = _signal.getsignal  # that of `signal` takes twenty times as long, to make an enum of it


class State(NamedTuple):
    """What jobs share of their process. `limits` is empty where nobody has touched them."""

    folder: str
    handlers: list[Any]
    blocked: set[int]
    streams: tuple[TextIO | None, ...]
    closed: tuple[bool, ...]
    files: tuple[tuple[int, int] | None, ...]
    limits: tuple[tuple[int, int], ...]


class Conduct:
    """Sees what the jobs of one message, or of several async ones at a time, leave changed."""

    def __init__(self) -> None:
        self.touched: list[bool] = []
        """Not empty when something may have changed since the last look; whether it was on the main thread."""
        self.by_thread = False
        """Whether what the last look found may have been done by a thread, which any job may have left behind."""
        self._main = threading.get_ident()
        self._home = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._found: dict[tuple[Errand, int], State] = {}
        self._after: dict[tuple[Errand, int], State] = {}
        self._last: tuple[Errand, int] | None = None
        self._limits = _limits()
        self._before = _state(())

    def install(self) -> None:
        """Main thread, once: be told what functions do from here on. There is no way back in this process."""
        sys.addaudithook(self._on_event)
        for name in ("signal", "pthread_sigmask"):
            setattr(signal, name, self._watched(getattr(signal, name)))
        sys.stdout = sys.stderr = _Stream(self._note)

    def begin(self) -> None:
        """Jobs begin: what is now is what they find."""
        self.touched.clear()
        self._found.clear()
        self._after.clear()
        self._last = None
        self._before = _state(())

    def look(self) -> tuple[ProcessChanged | None, bool]:
        """What has changed since `begin`, and whether the job that has just ended has surely done it."""
        self.by_thread = not all(self.touched)
        told = bool(self.touched) and not self.by_thread
        now = _state(self._limits if self.touched else ())
        self.touched.clear()
        found = list(self._differences(self._before._replace(limits=now.limits and self._limits), now))
        return _error([said for said, _ in found]), told and all([is_told for _, is_told in found])

    def left(self, errand: Errand, position: int) -> ProcessChanged | None:
        """What an async job that ends now has changed since it began, as far as that is still so."""
        job = errand, position
        found, after = self._found.pop(job, None), self._after.pop(job, None)
        if not self._found:
            self.touched.clear()
        if found is None:
            return None
        now = _state(self._limits)
        if after is not None and self._last != job:  # others have touched something since: what they changed is theirs
            now = State._make([new if new == own else old for old, own, new in zip(found, after, now, strict=True)])
        changed = _error([said for said, is_told in self._differences(found, now) if is_told])
        if changed is not None:
            _put_back(found)
        return changed

    def _on_event(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event in _EVENTS and arguments[:1] != _OWN_LIMIT:
            self._note()

    def _watched(self, original: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(original)
        def watched(*args: Any, **kwargs: Any) -> Any:
            self._note()
            return original(*args, **kwargs)

        return watched

    def _note(self) -> None:
        """Something is going to be changed, perhaps."""
        errand, position = current_job.now()
        if errand is not None and errand.is_async and position >= 0:
            state = _state(self._limits)
            if self._last in self._found:
                self._after[self._last] = state
            self._last = errand, position
            self._found.setdefault(self._last, state)
        self.touched.append(threading.get_ident() == self._main)

    def _differences(self, before: State, now: State) -> Iterator[tuple[str, bool]]:
        """What is different, in words, and whether a job that does that is noticed at once."""
        if now == before:
            return
        if now.folder != before.folder and not self._is_home(before.folder):
            where = f"from {before.folder} to {now.folder or 'one that is gone'}"
            yield f"the working directory, {where}: use contextlib.chdir, or go back before it returns", True
        for number, old, new in zip(_SIGNALS, before.handlers, now.handlers, strict=True):
            if old is not new and old != new:
                yield f"the handler of {number.name}: put back what signal.signal returned", True
        if now.blocked != before.blocked:
            names = " ".join(sorted(signal.Signals(number).name for number in now.blocked ^ before.blocked))
            yield f"which signals are blocked ({names}): put back what signal.pthread_sigmask returned", True
        for at, name in enumerate(_STREAMS):
            if now.closed[at] and not before.closed[at]:
                yield f"sys.{name}, which it closed: a job does not own it", name != "stdin"
            elif now.streams[at] is not before.streams[at]:
                yield f"sys.{name}, which it replaced: use contextlib.redirect_{name}, or put it back", name != "stdin"
            if now.files[at] != before.files[at]:
                how = "closed" if now.files[at] is None else "pointed elsewhere"
                yield f"descriptor {at} ({name}), which it {how}: os.dup it before, and put it back by os.dup2", False
        if now.limits != before.limits:
            names = " ".join(
                name for name, old, new in zip(_LIMITS.values(), before.limits, now.limits, strict=True) if old != new
            )
            yield f"limits of the process ({names}): they hold for all jobs; run a program of its own under them", True

    def _is_home(self, folder: str) -> bool:
        """Whether the working directory is the one that it was, only that somebody has renamed it meanwhile."""
        if folder != self._before.folder:
            return False
        try:
            return os.path.samestat(os.stat("."), os.fstat(self._home))
        except OSError:
            return False


class _Stream(io.TextIOWrapper):
    """Writes text to descriptor 2, and tells of its own end."""

    def __init__(self, note: Callable[[], None]) -> None:
        buffer = open(2, "wb", closefd=False)  # noqa: SIM115 - it lives as long as the process
        super().__init__(buffer, encoding="utf-8", errors="backslashreplace", line_buffering=True)
        self._note = note

    def close(self) -> None:
        """Close the stream, as that of any file."""
        self._note()
        super().close()

    def detach(self) -> Any:
        """Take its buffer away from it."""
        self._note()
        return super().detach()


def _state(limits: tuple[tuple[int, int], ...]) -> State:
    """The state as it is now; with what is in force in place of `limits` if there are any."""
    try:
        folder = os.getcwd()
    except OSError:
        folder = ""
    streams = sys.stdin, sys.stdout, sys.stderr
    return State(
        folder,
        [*map(_handler_of, _SIGNALS)],
        _signal.pthread_sigmask(signal.SIG_BLOCK, ()),
        streams,
        tuple([*map(_is_closed, streams)]),
        tuple([*map(file_of, (0, 1, 2))]),
        _limits() if limits else (),
    )


def _put_back(state: State) -> None:
    """Restore what jobs that are at work now rely on most."""
    with suppress(OSError):
        os.chdir(state.folder)
    for number, handler in zip(_SIGNALS, state.handlers, strict=True):
        if handler is not None and _handler_of(number) != handler:
            signal.signal(number, handler)


def _is_closed(stream: TextIO | None) -> bool:
    try:
        return stream is not None and stream.closed
    except Exception:  # noqa: BLE001 - it is something of the function's own, or its buffer was taken away
        return True


def _limits() -> tuple[tuple[int, int], ...]:
    return tuple([*map(resource.getrlimit, _LIMITS)])


def _error(changes: list[str]) -> ProcessChanged | None:
    if not changes:
        return None
    return ProcessChanged(f"the function left its process changed: {'; and '.join(changes)}")
