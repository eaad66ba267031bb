"""A child process of the worker: runs the jobs that it is handed, one message at a time.

    python -m dts.worker.child OPTIONS

It is a fresh interpreter in a session of its own, so that a Ctrl-C in the worker's terminal does not reach it, and
talks over an inherited socket that no process started by a function can see. When the worker dies, the kernel kills
the whole session: see `die_with_worker`. What functions print goes to stderr.
"""

from __future__ import annotations

import fcntl
import gc
import os
import signal
import socket
import sys
import threading
from typing import Any

import msgspec

from dts.errors import DtsError, WireError
from dts.wire import codec
from dts.wire.dts_pb2 import JobBatch
from dts.worker.board import MAX_JOBS, Board, Phase
from dts.worker.failure import describe_ours
from dts.worker.frames import Frame, FrameReader, Kind, pack_header
from dts.worker.loader import Loader
from dts.worker.outbox import Flusher, Outbox
from dts.worker.running import Runner

_READ_SIZE = 256 * 1024


class ChildOptions(msgspec.Struct, frozen=True):
    """What a child is told when it is started. `socket`, `board` and `lifeline` are inherited file descriptors.

    `functions` is a directory, or empty for the bundled one; `max_result` is in bytes.
    """

    name: str
    functions: str
    concurrency: int
    max_result: int
    socket: int = -1
    board: int = -1
    lifeline: int = -1


class Channel:
    """The child's end of the socket. Threads may send at the same time."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        self._reader = FrameReader()
        self._frames: list[Frame] = []
        self._sending = threading.Lock()

    def send(self, frame: Frame) -> None:
        """Send a frame. Raises OSError when the worker is gone."""
        with self._sending:
            self._socket.sendall(pack_header(frame) + frame.body)

    def close(self) -> None:
        """Neither send nor receive any more; the socket stays open in other processes."""
        self._socket.close()

    def receive(self) -> Frame | None:
        """Wait for the next frame; None when the worker has closed its end."""
        while not self._frames:
            data = self._socket.recv(_READ_SIZE)
            if not data:
                return None
            self._frames = self._reader.feed(data)[::-1]
        return self._frames.pop()


class Child:
    """Runs message after message."""

    def __init__(self, options: ChildOptions, channel: Channel, board: Board, loader: Loader) -> None:
        self._options = options
        self._channel = channel
        self._board = board
        self._loader = loader
        self._runner = Runner(board.states, options.max_result, options.concurrency)
        self._flusher = Flusher()

    def run(self) -> None:
        """Serve until the worker closes its end."""
        self._flusher.start()
        self._channel.send(Frame(Kind.READY, 0))
        while (frame := self._channel.receive()) is not None:
            if self._board.claim(frame.ticket):
                self._serve(frame)
                self._board.phase = Phase.IDLE

    def _serve(self, frame: Frame) -> None:
        try:
            batch = codec.decode(JobBatch, frame.body, frame.content_encoding)
            if len(batch.jobs) > MAX_JOBS:
                raise WireError(f"the message has {len(batch.jobs)} jobs and the limit is {MAX_JOBS}")
        except DtsError as error:
            self._channel.send(Frame(Kind.DEAD, frame.ticket, error.message.encode()))
            return
        outbox = Outbox(frame.ticket, batch, self._options.name, self._board, self._channel.send)
        self._board.phase = Phase.LOADING
        try:
            function = self._loader.load(batch.function)
        except DtsError as error:
            told = describe_ours(error)
            outbox.ended += [(position, job, b"", told, 0.0, 0.0) for position, job in enumerate(batch.jobs)]
        else:
            outbox.version = function.version
            self._board.phase = Phase.RUNNING
            self._flusher.watch(outbox)
            self._runner.run(function, batch.jobs, outbox)
            self._flusher.watch(None)
        outbox.finish()


def die_with_worker(lifeline: int) -> None:
    """Have the kernel kill this process and all that its functions started, when the worker is gone.

    `lifeline` is the reading end of a pipe whose other end only the worker holds, and never writes to: the one thing
    that can happen to it is that the worker dies. The kernel then signals the owner of the descriptor, here the whole
    process group, by SIGKILL instead of SIGIO (fcntl(2), F_SETOWN and F_SETSIG). That needs no thread, so it works
    while a function holds the interpreter's lock for ever.
    """
    fcntl.fcntl(lifeline, fcntl.F_SETOWN, -os.getpgrp())
    fcntl.fcntl(lifeline, fcntl.F_SETSIG, signal.SIGKILL)
    fcntl.fcntl(lifeline, fcntl.F_SETFL, fcntl.fcntl(lifeline, fcntl.F_GETFL) | os.O_ASYNC)


def _prepare_process(options: ChildOptions) -> None:
    """Keep what functions do away from what the worker needs."""
    for fd in (options.socket, options.board, options.lifeline):
        os.set_inheritable(fd, False)
    die_with_worker(options.lifeline)
    for number in (signal.SIGTERM, signal.SIGINT):
        # The worker ends its children itself, after they are drained; a service manager signals them all. Not
        # SIG_IGN, since the programs that a function starts would inherit that.
        signal.signal(number, _ignore)
    os.dup2(2, 1)
    sys.stdout = sys.stderr


def _leave_forks_alone(board: Board, channel: Channel) -> None:
    """Let a process that a function forks be one of its own, even if it returns from the function.

    It has the usual signals (multiprocessing ends its processes by TERM), no way to speak to the worker, and stops
    with an error where it would go on with the jobs.
    """

    def after_fork() -> None:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        board.states.release()
        channel.close()

    os.register_at_fork(after_in_child=after_fork)


def _ignore(number: int, frame: Any) -> None:
    """Handle a signal by doing nothing."""


def main(arguments: list[str]) -> int:
    """Run a child with its options, as JSON, in the first argument."""
    options = msgspec.json.decode(arguments[0], type=ChildOptions)
    _prepare_process(options)
    channel, board = Channel(socket.socket(fileno=options.socket)), Board(options.board)
    _leave_forks_alone(board, channel)
    with Loader(options.functions or None) as loader:
        child = Child(options, channel, board, loader)
        gc.collect()
        gc.freeze()
        try:
            child.run()
        except (BrokenPipeError, ConnectionResetError):
            return 1  # the worker is gone
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
