"""How the processes that share a queue file tell each other that there is something, and which of them are alive.

In a folder beside the file, each process has a named pipe that others write short lines to, and a lock file that it
holds locked as long as it lives. Lines are hints: one that is lost costs the receiver a slow poll, never a message. A
line is shorter than PIPE_BUF, so that the kernel keeps the lines of several writers apart (POSIX, `write`). `Q queue`
says that a queue has new messages, `E name parts part` is a part of an event, and `L` says that events were lost.
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import json
import logging
import os
import uuid
import weakref
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path

log = logging.getLogger(__name__)

LINE_ROOM = 3500
"""Bytes of an event in one line; PIPE_BUF is 4096 on Linux."""

INCOMPLETE_KEPT = 64
"""Long events of which some lines are there; the oldest is given up, as a full pipe has swallowed the rest."""

_READ_SIZE = 1 << 16
_FIFO, _LOCK = ".fifo", ".lock"
_LOSS = b"L\n"


class ProcessPipe:
    """The pipe and the lock of this process, and the way to those of others.

    `open` first, then `listen` to get what others `send`.
    """

    def __init__(
        self,
        folder: Path,
        on_queue: Callable[[str], None],
        on_event: Callable[[str, str], None],
        on_loss: Callable[[], None],
    ) -> None:
        self.owner = f"{os.getpid()}-{uuid.uuid4().hex[:12]}"
        """The name of this process for the others, new each time."""
        self._folder = folder
        self._on_queue = on_queue
        self._on_event = on_event
        self._on_loss = on_loss
        self._deaf: set[str] = set()  # processes that an event for was lost, and that have not been told so
        self._lock: int | None = None
        self._pipe: int | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._rest = b""
        self._parts: OrderedDict[str, list[str]] = OrderedDict()

    def open(self) -> None:
        """Show that this process lives.

        Raises:
            OSError: the folder cannot be made or written.
        """
        self._make_lock()
        # A forked child has the lock as well, and must not keep its dead parent alive.
        alive = weakref.ref(self)
        os.register_at_fork(after_in_child=lambda: _leave_lock(alive))

    def _make_lock(self) -> None:
        self._folder.mkdir(exist_ok=True)
        # Locked before it has its name: nobody ever sees it unlocked while this process lives.
        hidden = self._folder / f".{self.owner}"
        lock = os.open(hidden, os.O_CREAT | os.O_RDWR, 0o660)
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        hidden.rename(self._folder / (self.owner + _LOCK))
        self.leave_lock()
        self._lock = lock

    def listen(self) -> None:
        """Begin to receive, on the running event loop. May be called again.

        Raises:
            OSError: the pipe cannot be made.
        """
        if self._pipe is not None:
            return
        hidden = self._folder / f".{self.owner}{_FIFO}"
        os.mkfifo(hidden, 0o660)
        # Open for both ways it never sees an end of file, and opening does not wait for a writer.
        self._pipe = os.open(hidden, os.O_RDWR | os.O_NONBLOCK)
        hidden.rename(self._folder / (self.owner + _FIFO))
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._pipe, self._read)

    def restore(self) -> None:
        """Put back what was deleted in the folder: without it others do not wake this process, nor notice its death.

        Raises:
            OSError: it cannot be made now.
        """
        if self._lock is not None and not self._has(_LOCK):
            self._make_lock()
        if self._pipe is not None and not self._has(_FIFO):
            self._leave_pipe()
            self.listen()
            self._on_loss()

    def _has(self, suffix: str) -> bool:
        return (self._folder / (self.owner + suffix)).exists()

    def close(self) -> None:
        """Leave: messages that this process still has count as given up from now on. May be called twice."""
        if self._pipe is not None:
            self._leave_pipe()
            self._unlink(self.owner + _FIFO)
        if self._lock is not None:
            self._unlink(self.owner + _LOCK)
            self.leave_lock()

    def _leave_pipe(self) -> None:
        pipe, self._pipe = self._pipe, None
        if pipe is not None and self._loop is not None:
            self._loop.remove_reader(pipe)
            os.close(pipe)

    def leave_lock(self) -> None:
        """Close the lock file; another process that has it open, too, keeps the lock."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def send_queues(self, queues: Iterable[str]) -> None:
        """Tell the other processes that queues have new messages. Any thread may call this."""
        lines = [f"Q {queue}\n".encode() for queue in queues]
        for owner in self._others(_FIFO):
            if self._send(owner, lines):
                log.debug("hint for %s lost", owner)

    def send_event(self, topic: str, payload: str) -> dict[str, list[bytes]]:
        """Tell the other processes of an event; returns the lines that did not fit into pipes, for `send_rest`."""
        text = json.dumps([topic, payload])
        parts = [text[start : start + LINE_ROOM] for start in range(0, len(text), LINE_ROOM)]
        name = uuid.uuid4().hex
        lines = [f"E {name} {len(parts)} {part}\n".encode() for part in parts]
        left = {}
        owners = list(self._others(_FIFO))
        self._deaf.intersection_update(owners)
        for owner in owners:
            if owner not in self._deaf:
                left[owner] = self._send(owner, lines)
            elif not self._send(owner, [_LOSS, *lines]):
                self._deaf.discard(owner)
        return {owner: rest for owner, rest in left.items() if rest}

    def send_rest(self, left: dict[str, list[bytes]]) -> dict[str, list[bytes]]:
        """Send what did not fit before; returns what does not fit now."""
        again = {owner: self._send(owner, lines) for owner, lines in left.items()}
        return {owner: rest for owner, rest in again.items() if rest}

    def give_up(self, left: dict[str, list[bytes]]) -> None:
        """Drop what does not fit. Nobody waits for these processes any more until they were told of the loss."""
        for owner in left:
            log.debug("event for %s lost", owner)
            self._deaf.add(owner)

    def dead_owners(self) -> list[str]:
        """The processes that ended without `close`: those whose lock can be had."""
        return [name for name in self._others(_LOCK) if self._is_dead(name)]

    def remove(self, owner: str) -> None:
        """Remove what a dead process left in the folder, after its messages were given back."""
        for name in (f".{owner}{_FIFO}", owner + _FIFO, owner + _LOCK):
            self._unlink(name)

    def _is_dead(self, owner: str) -> bool:
        try:
            lock = os.open(self._folder / (owner + _LOCK), os.O_RDWR)
        except OSError:
            return False  # gone, or too many open files: that is no proof
        try:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        else:
            return True
        finally:
            os.close(lock)

    def _others(self, suffix: str) -> Iterator[str]:
        try:
            names = os.listdir(self._folder)
        except OSError as error:
            log.warning("cannot look into %s: %r", self._folder, error)
            return
        for name in names:
            owner = name.removesuffix(suffix)
            if name.endswith(suffix) and not name.startswith(".") and owner != self.owner:
                yield owner

    def _send(self, owner: str, lines: list[bytes]) -> list[bytes]:
        """Write lines to a process's pipe; returns those that there is no room for."""
        try:
            pipe = os.open(self._folder / (owner + _FIFO), os.O_WRONLY | os.O_NONBLOCK)
        except OSError as error:
            if error.errno == errno.ENXIO:
                self._unlink(owner + _FIFO)
            elif error.errno != errno.ENOENT:
                log.warning("cannot wake %s: %r", owner, error)
            return []
        done = 0
        try:
            for line in lines:
                os.write(pipe, line)
                done += 1
        except BlockingIOError:
            return lines[done:]
        except BrokenPipeError:
            return []  # it has just ended
        finally:
            os.close(pipe)
        return []

    def _unlink(self, name: str) -> None:
        with suppress(FileNotFoundError):
            os.unlink(self._folder / name)

    def _read(self) -> None:
        if self._pipe is None:
            return
        try:
            data = os.read(self._pipe, _READ_SIZE)
        except BlockingIOError:
            return
        *lines, self._rest = (self._rest + data).split(b"\n")
        queues = set()
        for line in lines:
            kind, _, text = line.decode(errors="replace").partition(" ")
            if kind == "Q":
                queues.add(text)
            elif kind == "E":
                try:
                    self._take_part(text)
                except ValueError:  # no number, or no JSON: a line of another version, or of another program
                    log.warning("a line in the pipe %s cannot be read; what it announced is looked up", self._pipe)
                    self._on_loss()
            elif kind == "L":
                self._on_loss()
        for queue in queues:
            self._on_queue(queue)

    def _take_part(self, text: str) -> None:
        name, count, part = text.split(" ", 2)
        parts = self._parts.setdefault(name, [])
        parts.append(part)
        if len(parts) == int(count):
            topic, payload = json.loads("".join(self._parts.pop(name)))
            self._on_event(topic, payload)
        elif len(self._parts) > INCOMPLETE_KEPT:
            self._parts.popitem(last=False)
            self._on_loss()


def _leave_lock(pipe: weakref.ref[ProcessPipe]) -> None:
    alive = pipe()
    if alive is not None:
        alive.leave_lock()
