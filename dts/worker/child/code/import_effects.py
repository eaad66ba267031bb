"""What a module changes of its process while it is imported, and counts on from then on.

The process is put right after each message, but a module is imported once: without this, what it had set, such as a
variable of the environment for a library, would be there for the first message and for no other.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

_SIGNALS = [
    signal.SIGINT,
    signal.SIGTERM,
    signal.SIGCHLD,
    signal.SIGALRM,
    signal.SIGUSR2,
    signal.SIGHUP,
    signal.SIGPIPE,
]


@dataclass(frozen=True, slots=True)
class Imprint:
    """Changes to be made again. None for a variable is that it was taken away."""

    environment: dict[str, str | None]
    path: list[str]
    folder: str
    patience: float | None
    is_patience_set: bool
    handlers: dict[int, Any]

    def apply(self) -> None:
        """Make the changes, as far as that is still possible."""
        for name, value in self.environment.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        sys.path += [entry for entry in self.path if entry not in sys.path]
        if self.folder:
            with suppress(OSError):
                os.chdir(self.folder)
        if self.is_patience_set:
            socket.setdefaulttimeout(self.patience)
        for number, handler in self.handlers.items():
            signal.signal(number, handler)


def watch() -> Callable[[], Imprint | None]:
    """Look at the process now; the function that is returned tells what has changed since, None for nothing."""
    environment, path, folder = dict(os.environ), list(sys.path), _folder()
    patience, handlers = socket.getdefaulttimeout(), _handlers()

    def changes() -> Imprint | None:
        now = dict(os.environ)
        names = {name for name, _ in environment.items() ^ now.items()}
        imprint = Imprint(
            {name: now.get(name) for name in names},
            [entry for entry in sys.path if entry not in path],
            "" if _folder() == folder else _folder(),
            socket.getdefaulttimeout(),
            socket.getdefaulttimeout() != patience,
            {number: handler for number, handler in _handlers().items() if handler != handlers[number]},
        )
        said = imprint.environment, imprint.path, imprint.folder, imprint.is_patience_set, imprint.handlers
        return imprint if any(said) else None

    return changes


def _folder() -> str:
    try:
        return os.getcwd()
    except OSError:
        return ""


def _handlers() -> dict[int, Any]:
    return {number: signal.getsignal(number) for number in _SIGNALS}
