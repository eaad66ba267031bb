"""A child process of the worker: runs the jobs that it is handed, one message at a time.

It is forked from the template, in a session of its own, so that a Ctrl-C in the worker's terminal does not reach it,
and talks over a socket that no process started by a function can see. When the worker dies, the kernel kills the
whole session: see `die_with_worker`. What functions print goes to a pipe that the worker reads.
"""

from __future__ import annotations

import faulthandler
import fcntl
import gc
import os
import signal
import socket
import sys
import threading
import time
from collections import deque
from typing import Any, NamedTuple

import msgspec

from dts.config import WorkerSettings
from dts.errors import DtsError, WireError
from dts.wire import codec
from dts.wire.dts_pb2 import JobBatch, Progress
from dts.worker import context
from dts.worker.board import MAX_JOBS, Board, Phase
from dts.worker.errand import Errand
from dts.worker.frames import Frame, FrameReader, Kind, pack_header
from dts.worker.helper import Helper, Watcher
from dts.worker.interrupts import Interrupter, SoftLimits, Stops, Watchdog
from dts.worker.joblog import JobLog
from dts.worker.leases import Leases
from dts.worker.loader import Loader
from dts.worker.outbox import Outbox
from dts.worker.partials import Partials
from dts.worker.running import Runner
from dts.worker.splitting import Splitter
from dts.worker.surroundings import MemoryLimit, Surroundings, resident_size
from dts.worker.terms import Terms, default_terms

_READ_SIZE = 256 * 1024
_MEASURE_EVERY = 0.5  # seconds between looks at the process's memory


class ChildOptions(msgspec.Struct, frozen=True):
    """What a child is told when it is started: the worker's name and settings."""

    name: str
    settings: WorkerSettings


class Descriptors(NamedTuple):
    """The file descriptors that a child is given."""

    socket: int
    board: int
    lifeline: int
    output: int


class Channel:
    """The child's end of the socket. Threads may send at the same time."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        self._reader = FrameReader()
        self._frames: deque[Frame] = deque()
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
        return self._frames.popleft() if self._frames or self._fill() else None

    def await_go(self, ticket: int) -> bool:
        """Wait for the GO of an errand, and keep what else comes; False when the worker has closed its end."""
        seen = 0
        while True:
            for frame in list(self._frames)[seen:]:
                if frame.kind == Kind.GO and frame.ticket == ticket:
                    self._frames.remove(frame)
                    return True
            seen = len(self._frames)
            if not self._fill():
                return False

    def _fill(self) -> bool:
        """Wait until there is one more frame at least; False at the end of the stream."""
        while data := self._socket.recv(_READ_SIZE):
            if frames := self._reader.feed(data):
                self._frames += frames
                return True
        return False


class Child:
    """Runs message after message."""

    def __init__(self, options: ChildOptions, channel: Channel, board: Board, loader: Loader) -> None:
        self._name, self._settings = options.name, options.settings
        self._channel = channel
        self._board = board
        self._loader = loader
        self._defaults = default_terms(options.settings)
        self._partials = Partials(options.settings.max_partials)
        self._memory = MemoryLimit()
        self._runner = Runner(board, options.settings, self._partials, self._memory)
        self._interrupter = Interrupter(self._runner)
        self._joblog = JobLog(options, channel.send)
        self._helper = Helper()
        self._jobs = 0
        self._measured = time.monotonic()
        self._send = channel.send

    def run(self) -> None:
        """Serve until the worker closes its end, or this process should be replaced."""
        self._interrupter.install()
        self._joblog.install()
        self._helper.start()
        surroundings = Surroundings()
        self._send(Frame(Kind.READY, 0))
        while (frame := self._channel.receive()) is not None:
            if frame.kind != Kind.RUN or not self._board.claim(frame.ticket):
                continue
            terms = self._serve(frame)
            self._board.phase = Phase.IDLE
            why = surroundings.restore() or self._worn_out(terms)
            if why:
                self._send(Frame(Kind.BYE, 0, why.encode(errors="replace")))
                return
            self._interrupter.install()

    def _serve(self, frame: Frame) -> Terms:
        """Run the jobs of a message; returns the terms that they had in common."""
        try:
            batch = codec.decode(JobBatch, frame.body, frame.content_encoding)
            if len(batch.jobs) > MAX_JOBS:
                raise WireError(f"the message has {len(batch.jobs)} jobs and the limit is {MAX_JOBS}")
        except DtsError as error:
            self._send(Frame(Kind.DEAD, frame.ticket, error.message.encode()))
            return self._defaults
        errand = Errand(frame.ticket, batch, self._defaults, frame.jobs - 1 if frame.jobs else None)
        outbox = Outbox(errand, self._name, self._board, self._send)
        outbox.take_progress = lambda: self._progress(errand)
        context.begin(errand, self._runner)
        terms = errand.terms.common
        self._jobs += len(batch.jobs)
        self._board.memory_limit = self._memory.set(terms.memory_limit)
        Stops(errand, self._runner, self._board, self._interrupter).look()
        leases = Leases(errand, outbox, self._board, self._settings.lease)
        if leases.needed:
            leases.take()
            if not self._channel.await_go(frame.ticket):
                raise BrokenPipeError
        self._helper.watch(self._watchers(errand, outbox, leases))
        try:
            self._run(errand, outbox)
        finally:
            self._helper.watch(())
        outbox.finish()
        context.begin(None, self._runner)
        return terms

    def _run(self, errand: Errand, outbox: Outbox) -> None:
        timeout = errand.terms.common.timeout
        self._board.loading_limit = time.monotonic() + timeout if timeout else 0.0
        self._board.phase = Phase.LOADING
        try:
            function = self._loader.load(errand.batch.function)
        except DtsError as error:
            self._runner.refuse(error, errand, outbox)
        else:
            outbox.version = function.version
            self._board.phase = Phase.RUNNING
            self._runner.run(function, errand, outbox)

    def _watchers(self, errand: Errand, outbox: Outbox, leases: Leases) -> list[Watcher]:
        settings, runner = self._settings, self._runner
        watchers: list[Watcher] = [
            outbox,
            Splitter(errand, outbox, settings.split_after, settings.slice_seconds),
            Stops(errand, runner, self._board, self._interrupter),
            Watchdog(errand, runner, settings.blocked_after, self._joblog.warn),
        ]
        if errand.terms.strict:
            watchers.append(SoftLimits(errand, runner, self._interrupter))
        if leases.needed:
            watchers.append(leases)
        return watchers

    def _progress(self, errand: Errand) -> list[Progress]:
        """What the jobs at work have told since the last time."""
        told = context.take_told()
        found = []
        for position in told.keys() | self._partials.of.keys():
            done, total = told.get(position, (0.0, 0.0))
            yielded = self._partials.of.get(position)
            values, untold = b"", yielded.untold if yielded is not None else []
            if untold:
                values = b"[" + b",".join(untold) + b"]"
                untold.clear()
            if values or position in told:
                found.append(Progress(index=errand.jobs[position].index, done=done, total=total, partials=values))
        return found

    def _worn_out(self, terms: Terms) -> str:
        """Why this process should be replaced by a fresh one; empty if it should not."""
        if terms.recycle_after and self._jobs >= terms.recycle_after:
            return f"it has run {self._jobs} jobs"
        limit, now = self._settings.recycle_rss, time.monotonic()
        if terms.memory_limit:
            limit = min(limit or terms.memory_limit, self._board.memory_limit // 2)
        if limit and now - self._measured >= _MEASURE_EVERY:
            self._measured = now
            if (size := resident_size()) > limit:
                return f"it holds {size // 2**20} MB of memory"
        return ""


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


def _prepare_process(given: Descriptors) -> None:
    """Keep what functions do away from what the worker needs."""
    die_with_worker(given.lifeline)
    for number in (signal.SIGTERM, signal.SIGINT):
        # The worker ends its children itself, after they are drained; a service manager signals them all. Not
        # SIG_IGN, since the programs that a function starts would inherit that.
        signal.signal(number, _ignore)
    os.dup2(given.output, 1)
    os.dup2(given.output, 2)
    os.close(given.output)
    sys.stdout = sys.stderr
    faulthandler.register(signal.SIGUSR1, file=2, all_threads=True)


def _leave_forks_alone(board: Board, channel: Channel) -> None:
    """Let a process that a function forks be one of its own, even if it returns from the function.

    It has the usual signals (multiprocessing ends its processes by TERM), no way to speak to the worker, and stops
    with an error where it would go on with the jobs.
    """

    def after_fork() -> None:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        board.release()
        channel.close()

    os.register_at_fork(after_in_child=after_fork)


def _ignore(number: int, frame: Any) -> None:
    """Handle a signal by doing nothing."""


def main(options: ChildOptions, given: Descriptors) -> int:
    """Run a child in this process."""
    _prepare_process(given)
    channel, board = Channel(socket.socket(fileno=given.socket)), Board(given.board)
    _leave_forks_alone(board, channel)
    with Loader(options.settings.functions or None) as loader:
        child = Child(options, channel, board, loader)
        gc.freeze()
        try:
            child.run()
        except (BrokenPipeError, ConnectionResetError):
            return 1  # the worker is gone
    return 0
