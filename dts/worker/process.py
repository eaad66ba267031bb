"""The worker's end of one child process: starts it, hands it work, hears from it, sees it die."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from asyncio.subprocess import DEVNULL, Process
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

import msgspec

from dts.worker.board import Board
from dts.worker.child import ChildOptions
from dts.worker.frames import Frame, FrameReader, Kind, pack_header

_READ_SIZE = 256 * 1024
_DYING = 0.2
"""Seconds from the end of a child's stream in which its death is noticed, if it has died."""


@dataclass(slots=True, eq=False)
class Assignment:
    """Jobs that a child is handed at once: a message, or after a crash a part of one.

    `owner` is for whoever made it. `deaths` counts the children that died of it without being at a job.
    """

    body: bytes
    content_encoding: str
    owner: object
    ticket: int = 0
    deaths: int = 0


class ChildProcess:
    """One child. `given` are the assignments that it has and has not finished, oldest first."""

    def __init__(self, process: Process, sock: socket.socket, board: Board, lifeline: int) -> None:
        self.board = board
        self.given: deque[Assignment] = deque()
        self.ready = False
        self.severed = False
        """Whether it closed its end of the socket while it lived, and was killed for that."""
        self._process = process
        self._socket = sock
        self._lifeline = lifeline
        self._reader = FrameReader()
        self._unsent = bytearray()
        self._on_frame: Callable[[ChildProcess, Frame], None] = lambda child, frame: None
        self._loop = asyncio.get_running_loop()

    @classmethod
    async def start(cls, options: ChildOptions) -> ChildProcess:
        """Start a child. Raises OSError when the system cannot."""
        ours, theirs = socket.socketpair()
        read_end, write_end = os.pipe()
        board = Board.create()
        told = msgspec.structs.replace(options, socket=theirs.fileno(), board=board.fd, lifeline=read_end)
        try:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "dts.worker.child", msgspec.json.encode(told).decode()),
                stdin=DEVNULL,
                pass_fds=(told.socket, told.board, told.lifeline),
                start_new_session=True,
            )
        except BaseException:
            ours.close()
            os.close(write_end)
            board.close()
            raise
        finally:
            theirs.close()
            os.close(read_end)
        ours.setblocking(False)
        return cls(process, ours, board, write_end)

    @property
    def pid(self) -> int:
        """The process id, also of its process group."""
        return self._process.pid

    def listen(self, on_frame: Callable[[ChildProcess, Frame], None]) -> None:
        """Call `on_frame` for every frame from here on."""
        self._on_frame = on_frame
        self._loop.add_reader(self._socket, self._on_readable)

    def give(self, assignment: Assignment, ticket: int) -> None:
        """Hand over an assignment under a ticket higher than all before it."""
        assignment.ticket = ticket
        self.given.append(assignment)
        frame = Frame(Kind.RUN, ticket, assignment.body, assignment.content_encoding)
        self._send(pack_header(frame), frame.body)

    def recall(self) -> list[Assignment]:
        """Take back the assignments that the child has not begun, oldest first."""
        if not self.given:
            return []
        claimed = self.board.recall(self.given[-1].ticket)
        if claimed is None:
            return []
        taken = [assignment for assignment in self.given if assignment.ticket > claimed]
        for _ in taken:
            self.given.pop()
        return taken

    async def wait(self) -> str:
        """Wait for the child's end, and say how it ended.

        Whatever it sent before its death is heard first. What its functions started dies with it.
        """
        code = await self._process.wait()
        self._kill_group()
        with suppress(OSError):
            while self._read():
                pass
        return _said(code)

    def close(self) -> None:
        """Let go of what is shared with the child, once it has ended."""
        self._loop.remove_reader(self._socket)
        self._loop.remove_writer(self._socket)
        self._socket.close()
        os.close(self._lifeline)
        self.board.close()

    def finish(self) -> None:
        """Tell the child that there is no more work: it ends after what it is doing."""
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_WR)

    def kill(self) -> None:
        """End the child, and what its functions started, at once."""
        if self._process.returncode is None:
            self._kill_group()

    def _kill_group(self) -> None:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)

    def _on_readable(self) -> None:
        try:
            if not self._read():
                self._loop.remove_reader(self._socket)
                self._loop.call_later(_DYING, self._sever)
        except BlockingIOError:
            pass
        except OSError:
            self._loop.remove_reader(self._socket)

    def _sever(self) -> None:
        """End a child that still lives after its end of the socket was closed: a function did that."""
        self.severed = self._process.returncode is None
        self.kill()

    def _read(self) -> bool:
        """Hear what has come; False at the end of the stream. Raises OSError, BlockingIOError if nothing has."""
        data = self._socket.recv(_READ_SIZE)
        for frame in self._reader.feed(data):
            self._on_frame(self, frame)
        return bool(data)

    def _send(self, *parts: bytes) -> None:
        if self._unsent:
            self._unsent += b"".join(parts)
            return
        try:
            sent = self._socket.sendmsg(parts)
        except BlockingIOError:
            sent = 0
        except OSError:  # it is dead, and its assignments are seen to when that is noticed
            return
        if sent < sum(map(len, parts)):
            self._unsent += b"".join(parts)[sent:]
            self._loop.add_writer(self._socket, self._on_writable)

    def _on_writable(self) -> None:
        try:
            del self._unsent[: self._socket.send(self._unsent)]
        except BlockingIOError:
            return
        except OSError:
            self._unsent.clear()
        if not self._unsent:
            self._loop.remove_writer(self._socket)


def _said(code: int) -> str:
    """How a process ended, given its return code: minus the signal, or the exit status."""
    if code >= 0:
        return f"exited with status {code}"
    try:
        return f"died of {signal.Signals(-code).name}"
    except ValueError:
        return f"died of signal {-code}"
