"""The process that children are forked from: started clean, single-threaded, with everything imported.

    python -m dts.worker.child.template SOCKET [USER]

A fresh interpreter needs 100 ms to become a child, a fork of this one a few. It never runs a function, nor an event
loop. The worker asks for a child by a datagram with the child's options and file descriptors; it is told the process
id, and later how that process ended. It may ask whether this process is at work, too. When a child has ended, all
that its functions have started and left behind is killed: by its process group, and what has left that, too, since
this process is the one that the kernel hands orphans to. When the worker is gone, all children are killed, and then
this process ends. With a USER, which takes root, this process and its children run as that one.
"""

from __future__ import annotations

import asyncio
import ctypes
import gc
import inspect
import os
import pwd
import select
import signal
import socket
import sys
import traceback
from contextlib import suppress
from typing import Any

import msgspec
import uvloop

from dts.worker.child import main as child
from dts.worker.link.options import ChildOptions, Descriptors
from dts.worker.link.reports import ALIVE, ENDED, FAILED, QUESTION, READY, REPORT, STARTED

_PR_SET_DUMPABLE = 4
_PR_SET_CHILD_SUBREAPER = 36
_MAX_REQUEST = 64 * 1024
_PRELOADED = (asyncio, inspect, traceback, uvloop)  # what children import late; it would cost each of them 50 ms


class Template:
    """Forks children, and reaps them."""

    def __init__(self, worker: socket.socket) -> None:
        self._worker = worker
        self._children: set[int] = set()
        self._wake, self._waker = socket.socketpair()

    def serve(self) -> tuple[ChildOptions, Descriptors] | None:
        """Serve until the worker is gone; in a forked child, returns at once with what that is to do."""
        self._wake.setblocking(False)
        self._waker.setblocking(False)
        signal.signal(signal.SIGCHLD, _ignore)
        signal.set_wakeup_fd(self._waker.fileno(), warn_on_full_buffer=False)
        self._report(READY, os.getpid(), 0)
        while True:
            readable, _, _ = select.select([self._worker, self._wake], [], [])
            if self._wake in readable:
                with suppress(BlockingIOError):
                    self._wake.recv(4096)
                self._reap()
            if self._worker in readable:
                try:
                    data, fds, _, _ = socket.recv_fds(self._worker, _MAX_REQUEST, 8)
                except ConnectionResetError:  # the worker died before it had read all reports
                    data, fds = b"", []
                if not data:
                    self._end()
                    return None
                if data == QUESTION:
                    self._report(ALIVE, os.getpid(), 0)
                elif self._fork(fds):
                    return msgspec.json.decode(data, type=ChildOptions), Descriptors(*fds)

    def _fork(self, fds: list[int]) -> bool:
        """Make a child; returns whether this is it."""
        try:
            pid = os.fork()
        except OSError as error:
            self._report(FAILED, 0, error.errno or 0)
        else:
            if pid == 0:
                self._become_child()
                return True
            self._children.add(pid)
            self._report(STARTED, pid, 0)
        for fd in fds:
            os.close(fd)
        return False

    def _become_child(self) -> None:
        os.setsid()
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        for end in (self._wake, self._waker, self._worker):
            end.close()
        become_subreaper()

    def _reap(self) -> None:
        """See to all processes that have ended."""
        while (pid := _ended()) is not None:
            if pid in self._children:  # before its number may be taken by another process
                _kill_group(pid)
            _, status = os.waitpid(pid, 0)
            if pid in self._children:
                self._children.discard(pid)
                self._kill_strays()
                self._report(ENDED, pid, os.waitstatus_to_exitcode(status))

    def _kill_strays(self) -> None:
        """Kill what functions of ended children have left behind."""
        for pid in _own_children():
            if pid not in self._children:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)

    def _end(self) -> None:
        """Kill everything, also what comes to this process while others die."""
        self._children.clear()
        for pid in _own_children():
            _kill_group(pid)
        while _own_children():
            self._kill_strays()
            with suppress(ChildProcessError):
                os.waitpid(-1, 0)

    def _report(self, code: int, pid: int, status: int) -> None:
        with suppress(OSError):  # a worker that is gone is noticed by the end of its requests
            self._worker.send(REPORT.pack(code, pid, status))


def become_subreaper() -> None:
    """Have orphaned descendants of this process become its children (prctl(2))."""
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def become_user(name: str) -> None:
    """Have this process run as another user from here on, with the groups and the home of that one.

    Raises:
        KeyError: there is no such user.
        PermissionError: this process does not run as root.
    """
    user = pwd.getpwnam(name)
    os.initgroups(name, user.pw_gid)
    os.setgid(user.pw_gid)
    os.setuid(user.pw_uid)
    os.environ |= {"HOME": user.pw_dir, "USER": name, "LOGNAME": name}
    if not os.access(".", os.R_OK | os.X_OK):  # it may be the worker's alone, with its keys
        os.chdir("/")
    # The kernel has made /proc/self root's, and children must find their own state there.
    ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 1, 0, 0, 0)


def _ended() -> int | None:
    """A child process that has ended and is not reaped yet."""
    try:
        info = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return None
    return info.si_pid if info is not None else None


def _own_children() -> list[int]:
    """All child processes of this one."""
    with open(f"/proc/self/task/{os.getpid()}/children", "rb") as file:
        return [int(pid) for pid in file.read().split()]


def _kill_group(pid: int) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)


def _ignore(number: int, frame: Any) -> None:
    """Handle a signal by doing nothing."""


def main(arguments: list[str]) -> int:
    """Run the template, and in its forks the children; returns the exit code of either."""
    worker = socket.socket(fileno=int(arguments[0]))
    worker.set_inheritable(False)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGHUP):
        signal.signal(number, _ignore)  # it ends with the worker, not by what a service manager sends to all
    for user in arguments[1:]:
        become_user(user)
    become_subreaper()
    gc.collect()
    gc.freeze()
    order = Template(worker).serve()
    return 0 if order is None else child.main(*order)


def run() -> None:
    """Run `main` and end the process at once, whatever threads a function has left running.

    Nothing may keep it from that, not even what a function has put in the place of builtins.
    """
    code, leave = 1, os._exit
    try:
        try:
            code = main(sys.argv[1:])
        except BaseException:  # noqa: BLE001 - it is reported, and ends this process
            traceback.print_exc()
        sys.stderr.flush()
    finally:
        leave(code)


if __name__ == "__main__":
    run()
