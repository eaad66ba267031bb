"""A child process of the worker: runs the jobs that it is handed, one message at a time.

It is forked from the template, in a session of its own, so that a Ctrl-C in the worker's terminal does not reach it,
and talks over a socket that no process started by a function can see. When the worker dies, the kernel kills the
whole session: see `die_with_worker`. What functions print goes to a pipe that the worker reads.
"""

from __future__ import annotations

import atexit
import faulthandler
import fcntl
import gc
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Sequence, Sized
from pathlib import Path
from typing import Any

from dts.errors import DtsError, ImportFailed, WireError
from dts.wire import codec
from dts.wire.archive import is_version
from dts.wire.dts_pb2 import JobBatch, Progress
from dts.worker.attempt.terms import Terms, default_terms
from dts.worker.child import current_job, secrets
from dts.worker.child.active_batch import ActiveBatch
from dts.worker.child.async_session import Session, SessionBatch
from dts.worker.child.channel import Channel
from dts.worker.child.code.loader import PATIENCE, Loaded, Loader
from dts.worker.child.code.version import open_version
from dts.worker.child.eventloop import Loop
from dts.worker.child.helper import Helper, Watcher
from dts.worker.child.interrupts import NUMBER as INTERRUPT
from dts.worker.child.interrupts import Interrupter, SoftLimits, Stops, Watchdog
from dts.worker.child.joblog import JobLog
from dts.worker.child.leases import Leases
from dts.worker.child.many import ManyRunner
from dts.worker.child.outbox import Outbox
from dts.worker.child.partials import Partials
from dts.worker.child.runner import Runner
from dts.worker.child.splitting import Splitter
from dts.worker.child.state.alarms import Alarms
from dts.worker.child.state.memory import MemoryLimit
from dts.worker.child.state.upkeep import Upkeep
from dts.worker.functions import FOLDER
from dts.worker.link.board import MAX_JOBS, Board, Phase
from dts.worker.link.frames import Frame, Kind, scope_mark
from dts.worker.link.options import ChildOptions, Descriptors
from dts.worker.link.procfs import resident_size
from dts.worker.link.versions import VersionFolder, namespace_of, scope_of

_RUNS = (Kind.RUN, Kind.RUN_ALONE)
_MEASURE_EVERY = 0.5  # seconds between looks at the process's memory


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
        self._alarms = Alarms()
        self._runner = Runner(board, options.settings, self._partials, self._memory, self._alarms)
        self._many = ManyRunner(self._runner, board, self._partials)
        self._interrupter = Interrupter(self._runner)
        self._joblog = JobLog(options, channel.send)
        self._helper = Helper(board)
        self._loop: Loop | None = None
        self._watchdog: Watchdog | None = None
        self._peeked: tuple[int, JobBatch | None] = 0, None
        self._scope = ""
        self._why_no_version = ""
        self._jobs = 0
        self._measured = time.monotonic()
        self._send = channel.send

    def run(self) -> None:
        """Serve until the worker closes its end, or this process should be replaced."""
        self._interrupter.install()
        self._joblog.install()
        self._helper.start()
        self._alarms.install()
        upkeep = Upkeep([INTERRUPT, signal.SIGUSR1])
        self._send(Frame(Kind.READY, 0))
        while (frame := self._channel.receive()) is not None:
            if frame.kind == Kind.SECRETS:
                secrets.adopt(frame.body)
            if frame.kind not in _RUNS or self._board.is_recalled(frame.ticket):
                continue
            if why := self._loader.change():
                return self._say_goodbye(why)
            if not self._board.claim(frame.ticket):
                continue
            terms = self._serve(frame)
            self._board.phase = Phase.IDLE
            if why := upkeep.check() or self._worn_out(terms) or self._why_no_version:
                return self._say_goodbye(why)
            self._interrupter.install()
            self._joblog.restore()
        return None

    def _say_goodbye(self, why: str) -> None:
        """Tell the worker that this process takes no further message, since it ends."""
        self._joblog.tell_dropped()
        self._send(Frame(Kind.BYE, 0, why.encode(errors="replace")))

    def _serve(self, frame: Frame) -> Terms:
        """Run the jobs of a message; returns the terms that they had in common."""
        try:
            batch = _decode(frame)
        except DtsError as error:
            self._send(Frame(Kind.DEAD, frame.ticket, error.message.encode()))
            return self._defaults
        scope = scope_of(batch.function, batch.options.version)
        if frame.failed != scope_mark(scope) or scope != (self._scope or scope):
            # The worker chose this child by the header; to run the body would bind the child to another scope.
            text = f"its header names a function of another namespace or version than its body, {batch.function}"
            self._send(Frame(Kind.DEAD, frame.ticket, text.encode()))
            return self._defaults
        if batch.options.version and not self._scope:
            self._adopt_version(batch)
        self._scope = scope
        entry = self._make_entry(frame, batch)
        active = entry.batch
        current_job.begin(active, self._runner.position)
        terms = active.terms.common
        self._board.memory_limit = self._memory.set(terms.memory_limit)
        if entry.on_hold:
            if not self._channel.await_go(frame.ticket):
                raise BrokenPipeError
            entry.on_hold = False
        self._helper.watch(entry.watchers)
        try:
            self._run(entry, alone=frame.kind == Kind.RUN_ALONE)
        finally:
            self._helper.watch(())
        current_job.begin(None, self._runner.position)
        return terms

    def _adopt_version(self, batch: JobBatch) -> None:
        """Load functions from the folder of a deployed version from here on, with the packages that it needs."""
        version = batch.options.version
        if not is_version(version):
            self._why_no_version = f"{version[:80]!r} is not a version"
            return
        folder = VersionFolder(Path(self._settings.versions), version)
        namespace = namespace_of(batch.function)
        if not folder.has(namespace):
            self._why_no_version = folder.read_error() or f"version {folder.short} is not on this host any more"
            return
        self._loader.close()
        self._loader = open_version(folder, namespace)

    def _make_entry(self, frame: Frame, batch: JobBatch, first: int | None = None) -> SessionBatch:
        """What is needed to run a message that was claimed just now; asks for its lease if it needs one."""
        number = frame.jobs - 1 if frame.jobs else None
        active = ActiveBatch(frame.ticket, batch, self._defaults, self._board, number=number, first=first)
        outbox = Outbox(active, self._name, self._send)
        outbox.take_progress = lambda: _progress(active)
        self._jobs += len(batch.jobs)
        stops = Stops(active, self._runner, self._board, self._interrupter)
        stops.look()
        settings = self._settings
        watchers: list[Watcher] = [
            outbox,
            Splitter(active, outbox, settings.split_after, settings.slice_seconds),
            stops,
        ]
        if active.terms.strict:
            watchers.append(SoftLimits(active, self._runner, self._interrupter))
        leases = Leases(active, outbox, settings.lease)
        if leases.needed:
            leases.take()
            watchers.append(leases)
        return SessionBatch(active, outbox, on_hold=leases.needed, watchers=watchers)

    def _run(self, entry: SessionBatch, *, alone: bool) -> None:
        active, outbox = entry.batch, entry.outbox
        timeout = active.terms.common.timeout

        def limit(more: float = 0.0) -> None:
            self._board.loading_limit = time.monotonic() + timeout + more if timeout else 0.0

        limit(PATIENCE)  # its files may have to come to rest first, which is no time of the jobs
        self._loader.on_settled = limit
        self._board.phase = Phase.LOADING
        function = self._load(active, outbox)
        self._joblog.restore()  # the module may have set up logging
        if function is None:
            return outbox.finish()
        outbox.version = self._board.version = function.version
        self._board.phase = Phase.RUNNING
        if function.is_async:
            return self._run_session(function, entry, alone=alone or any([job.kills for job in active.jobs]))
        if function.many is not None:
            return self._many.run(function, function.many, active, outbox)
        self._runner.run(function, active, outbox)
        return None

    def _load(self, active: ActiveBatch, outbox: Outbox) -> Loaded | None:
        """The function of a message; None when it cannot be loaded, and the jobs have failed of that. The error, with
        all that the module has left in it, is gone then.
        """
        try:
            if self._why_no_version:
                raise ImportFailed(self._why_no_version)
            return self._loader.load(active.batch.function)
        except DtsError as error:
            self._runner.refuse(error, active, outbox)
        return None

    # what a session asks for

    def _run_session(self, function: Loaded, entry: SessionBatch, *, alone: bool) -> None:
        if self._loop is None:
            self._loop = Loop()
        self._watchdog = Watchdog(self._loop, self._board, self._settings.blocked_after, self._joblog.warn)
        if not alone:
            self._tell_begun(entry.batch.ticket, 0, entry.batch.batch)
        call = self._runner.begin(function, entry.batch)
        Session(self, self._runner, self._loop, function, call).run(entry, alone=alone)

    def _tell_begun(self, ticket: int, first: int, batch: JobBatch) -> None:
        self._send(Frame(Kind.BEGUN, ticket, b"%d" % first, jobs=len(batch.jobs)))

    @property
    def heard(self) -> Sized:
        """What has come from the worker; always the same object."""
        return self._channel.heard

    def next_batch(self) -> JobBatch | None:
        """The message that waits to be taken, if there is any that may run beside others."""
        while (frame := self._channel.peek()) is not None:
            if frame.kind in _RUNS and not self._board.is_recalled(frame.ticket):
                break
            if frame.kind == Kind.SECRETS:
                secrets.adopt(frame.body)
            self._channel.receive()
        if frame is None or frame.kind != Kind.RUN:
            return None
        if frame.ticket != self._peeked[0]:
            try:
                self._peeked = frame.ticket, _decode(frame)
            except DtsError:  # said when its turn comes
                self._peeked = frame.ticket, None
        return self._peeked[1]

    def take_next(self, first: int) -> SessionBatch | None:
        """Begin with it, its jobs at the places from `first` on; None if it was taken back just now."""
        frame, (ticket, batch) = self._channel.receive(), self._peeked
        self._peeked = 0, None
        if frame is None or batch is None or frame.ticket != ticket or not self._board.claim(ticket, beside=True):
            return None
        self._tell_begun(ticket, first, batch)
        return self._make_entry(frame, batch, first)

    def take_go(self, tickets: set[int]) -> int:
        """A ticket among these whose lease is on record now; 0 for none."""
        return self._channel.take_go(tickets)

    def hear(self) -> bool:
        """Read what has come from the worker; False when it has closed its end."""
        return self._channel.hear()

    def fileno(self) -> int:
        """The descriptor by which it comes."""
        return self._channel.fileno()

    def may_go_on(self, terms: Terms) -> bool:
        """Whether the process may take one more message of the function, as that was loaded."""
        return not (self._loader.change() or self._worn_out(terms))

    def attend(self, entries: Sequence[SessionBatch]) -> None:
        """Have the helper thread look after these messages from now on."""
        watchers = [watcher for entry in entries for watcher in entry.watchers]
        if watchers and self._watchdog is not None:
            watchers.append(self._watchdog)
        self._helper.watch(watchers)

    def finish(self, entry: SessionBatch) -> None:
        """Send the last results of a message, and that it is done."""
        entry.outbox.finish()
        self._board.forget(entry.batch.states, entry.batch.limits, entry.batch.begins)

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


def _decode(frame: Frame) -> JobBatch:
    """The jobs of a RUN. Raises DtsError when there are none to be had."""
    batch = codec.decode(JobBatch, frame.body, frame.content_encoding)
    if len(batch.jobs) > MAX_JOBS:
        raise WireError(f"the message has {len(batch.jobs)} jobs and the limit is {MAX_JOBS}")
    return batch


def _progress(active: ActiveBatch) -> list[Progress]:
    """The progress that jobs have reported, and the values that they have yielded, since the last call."""
    progressed, active.progressed = active.progressed, set()
    for position, yielded in list(active.yielded.items()):
        if yielded.is_new:
            yielded.is_new = False
            progressed.add(position)
    found = []
    for position in sorted(progressed):
        done, total = active.progress.get(position, (0.0, 0.0))
        of_job = active.yielded.get(position)
        values = of_job.tail() if of_job is not None else b""
        found.append(Progress(index=active.jobs[position].index, done=done, total=total, partials=values))
    return found


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
    # The second one prints also while C code does not return; a function that takes the signal and puts back what it
    # found finds the first one.
    signal.signal(signal.SIGUSR1, _print_stacks)
    faulthandler.register(signal.SIGUSR1, file=2, all_threads=True)


def _leave_forks_alone(board: Board, channel: Channel) -> None:
    """Let a process that a function forks be one of its own, even if it returns from the function.

    It has the usual signals (multiprocessing ends its processes by TERM), no way to speak to the worker, and stops
    with an error where it would go on with the jobs. A signal that comes before it has them waits: the handlers that it
    has from this process do nothing, and whoever sent it would wait for an end that never comes.
    """
    masks = threading.local()

    def before_fork() -> None:
        masks.before = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGTERM, signal.SIGINT))

    def after_fork_here() -> None:
        signal.pthread_sigmask(signal.SIG_SETMASK, masks.before)

    def after_fork() -> None:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.pthread_sigmask(signal.SIG_SETMASK, masks.before)
        board.release()
        channel.close()

    os.register_at_fork(before=before_fork, after_in_parent=after_fork_here, after_in_child=after_fork)


def _print_stacks(number: int, frame: Any) -> None:
    faulthandler.dump_traceback(file=2, all_threads=True)


def _ignore(number: int, frame: Any) -> None:
    """Handle a signal by doing nothing."""


def main(options: ChildOptions, given: Descriptors) -> int:
    """Run a child in this process."""
    _prepare_process(given)
    channel, board = Channel(socket.socket(fileno=given.socket)), Board(given.board)
    board.seal()
    _leave_forks_alone(board, channel)
    if options.settings.functions:
        os.environ[FOLDER] = options.settings.functions
    pid = os.getpid()
    with Loader(options.settings.functions or None) as loader:
        child = Child(options, channel, board, loader)
        gc.freeze()
        try:
            child.run()
        except (BrokenPipeError, ConnectionResetError):
            return 1  # the worker is gone
        if os.getpid() == pid:  # and not a process that a function has forked
            atexit._run_exitfuncs()
    return 0
