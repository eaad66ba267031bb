"""A connection to one host: commands as lists of arguments, and files that appear as a whole or not at all."""

from __future__ import annotations

import asyncio
import posixpath
import secrets
import shlex
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import cast

import asyncssh

from dts.errors import CommandFailed, HostError, HostUnreachable, InvalidInput
from dts.runtime.backoff import Backoff
from dts.server.ssh.credentials import without_credentials

Output = Callable[[str, bytes], None]
"""Takes what a command writes as it comes: `stdout` or `stderr`, and the bytes."""

MAX_OUTPUT = 1024 * 1024
"""Bytes of each stream of a command that are kept; what follows is passed on to a listener and dropped."""

KILL_AFTER = 5
"""Seconds between TERM and KILL for a command whose time is over."""

_GRACE = 15.0
"""Seconds beyond a command's time for the host to say that it ended; then the connection counts as lost."""

_SESSIONS = 8
"""Commands at a time on a connection: OpenSSH allows 10 sessions by default, and SFTP takes one."""

_REFUSALS = 10
"""How often a host may refuse a session before that is taken for an answer."""

_CHUNK = 32 * 1024
_TIMED_OUT = (124, 137)
"""Exit statuses of timeout(1) when it ended a command: by TERM, and by KILL."""


@dataclass(frozen=True, slots=True)
class Completed:
    """How a command ended. `status` is its exit status, 128 + the signal's number when a signal ended it."""

    argv: tuple[str, ...]
    status: int
    stdout: bytes
    stderr: bytes
    seconds: float
    timed_out: bool = False
    truncated: bool = False

    def text(self) -> str:
        """What it wrote to stdout."""
        return self.stdout.decode(errors="replace")

    def complaint(self) -> str:
        """The end of what it wrote to stderr, or else to stdout, for a message."""
        text = (self.stderr or self.stdout).decode(errors="replace").strip()
        return without_credentials(text)[-2000:]


class SshConnection:
    """A host that is logged in to. Made by SshConnections; several tasks may use it at a time."""

    def __init__(self, host: str, connection: asyncssh.SSHClientConnection) -> None:
        self.host = host
        """The id of the host's record."""
        self._connection = connection
        self._sessions = asyncio.Semaphore(_SESSIONS)
        self._sftp: asyncssh.SFTPClient | None = None
        self._sftp_start = asyncio.Lock()
        self._home = ""

    @property
    def lost(self) -> bool:
        """Whether the connection has ended."""
        return self._connection.is_closed()

    async def close(self) -> None:
        """End the connection; commands that still run on the host are not ended by that."""
        self._connection.abort()
        await self._connection.wait_closed()

    # commands

    async def run(
        self,
        argv: Sequence[str],
        *,
        timeout: float = 300.0,
        stdin: bytes = b"",
        on_output: Output | None = None,
        check: bool = False,
    ) -> Completed:
        """Run a command and wait for its end. Each argument is quoted: a shell on the host changes nothing of it.

        After `timeout` seconds the host itself ends the command and what it has started, also when this server is
        gone by then.

        Raises:
            InvalidInput: an argument cannot be passed on.
            HostUnreachable: the connection was lost; the command may have run.
            CommandFailed: `check` is set, and the exit status is not 0.
        """
        line = command_line(argv, timeout)
        begun = time.monotonic()
        with _mapped(self.host):
            async with self._sessions, asyncio.timeout(timeout + KILL_AFTER + _GRACE):
                process = await self._begin(line)
                try:
                    streams = await _communicate(process, stdin, on_output)
                finally:
                    process.close()
        seconds = time.monotonic() - begun
        status = _status(process)
        done = Completed(
            tuple(argv),
            status,
            bytes(streams["stdout"]),
            bytes(streams["stderr"]),
            round(seconds, 3),
            timed_out=status in _TIMED_OUT and seconds >= timeout,
            truncated=any(len(kept) >= MAX_OUTPUT for kept in streams.values()),
        )
        if check and done.status:
            how = f"took more than {timeout:.0f} s" if done.timed_out else f"ended with status {done.status}"
            shown = shlex.join(map(without_credentials, argv))[:200]
            raise CommandFailed(f"{self.host}: {shown} {how}: {done.complaint()}", done.status)
        return done

    async def _begin(self, line: str) -> asyncssh.SSHClientProcess[bytes]:
        """Start a command. A host that still counts sessions which have just ended may refuse a new one at first."""
        backoff = Backoff(0.01, 0.5)
        for _ in range(_REFUSALS):
            try:
                return await self._connection.create_process(line, encoding=None)
            except asyncssh.ChannelOpenError:
                await backoff.wait()
        return await self._connection.create_process(line, encoding=None)

    async def home(self) -> str:
        """The home directory of the user on the host, an absolute path."""
        if not self._home:
            home = (await self.run(["printenv", "HOME"], check=True)).text().rstrip("\n")
            if not posixpath.isabs(home) or home == "/":
                raise HostError(f"{self.host}: {home!r} is no home directory to work in")
            self._home = home
        return self._home

    # files

    async def put(self, data: bytes, path: str, *, mode: int = 0o644) -> None:
        """Write a file under a temporary name, have it on disk, and rename it: `path` is the old file or the new one.

        Raises:
            HostError: it could not be written; nothing is left at `path` that was not there before.
        """
        folder, name = posixpath.split(path)
        temporary = posixpath.join(folder, f".{name}.{secrets.token_hex(8)}.tmp")
        async with self.sftp() as sftp:
            try:
                async with sftp.open(temporary, "xb", asyncssh.SFTPAttrs(permissions=mode & 0o700)) as file:
                    await file.write(data)
                    await file.setstat(asyncssh.SFTPAttrs(permissions=mode))
                    await file.fsync()
                await sftp.posix_rename(temporary, path)
            except BaseException:
                with suppress(asyncssh.Error, OSError):
                    await sftp.remove(temporary)
                raise

    async def link(self, target: str, path: str) -> None:
        """Have a symbolic link at `path` to `target`, in place of another one in one step."""
        folder, name = posixpath.split(path)
        temporary = posixpath.join(folder, f".{name}.{secrets.token_hex(8)}.tmp")
        async with self.sftp() as sftp:
            await sftp.symlink(target, temporary)
            await sftp.posix_rename(temporary, path)

    async def read(self, path: str, *, limit: int = MAX_OUTPUT) -> bytes | None:
        """The first `limit` bytes of a file; None if there is no such file."""
        async with self.sftp() as sftp:
            try:
                async with sftp.open(path, "rb") as file:
                    return cast(bytes, await file.read(limit))
            except (asyncssh.SFTPNoSuchFile, asyncssh.SFTPNoSuchPath):
                return None

    async def make_folder(self, path: str, *, mode: int = 0o755) -> None:
        """Have a folder, and those above it."""
        async with self.sftp() as sftp:
            await sftp.makedirs(path, asyncssh.SFTPAttrs(permissions=mode), exist_ok=True)

    async def sync(self, *paths: str) -> None:
        """Have folders on disk, with the names in them: what was renamed into them survives a power cut."""
        await self.run(["sync", *paths], check=True)

    @asynccontextmanager
    async def sftp(self) -> AsyncIterator[asyncssh.SFTPClient]:
        """The connection's SFTP client; what it raises becomes a HostError that names the host."""
        with _mapped(self.host):
            async with self._sftp_start:
                if self._sftp is None:
                    self._sftp = await self._connection.start_sftp_client()
            yield self._sftp


def command_line(argv: Sequence[str], timeout: float) -> str:
    """The line for a shell on the host that runs exactly these arguments, for `timeout` seconds at most.

    Raises:
        InvalidInput: there is no command, or a NUL in an argument.
    """
    if not argv or not argv[0]:
        raise InvalidInput("there is no command to run")
    if any("\0" in word for word in argv):
        raise InvalidInput("an argument of the command has a NUL character in it")
    # with timeout(1) before it, the first word can be neither an assignment nor a shell's own word
    return shlex.join(["timeout", "-k", str(KILL_AFTER), f"{timeout:.3f}", *argv])


async def _communicate(
    process: asyncssh.SSHClientProcess[bytes], stdin: bytes, on_output: Output | None
) -> dict[str, bytearray]:
    streams = {"stdout": bytearray(), "stderr": bytearray()}

    async def read(name: str, reader: asyncssh.SSHReader[bytes]) -> None:
        while chunk := await reader.read(_CHUNK):
            streams[name] += chunk[: MAX_OUTPUT - len(streams[name])]
            if on_output is not None:
                on_output(name, chunk)

    async def write() -> None:
        with suppress(BrokenPipeError, ConnectionResetError):  # the command did not want it; its status says more
            process.stdin.write(stdin)
            process.stdin.write_eof()

    await asyncio.gather(read("stdout", process.stdout), read("stderr", process.stderr), write())
    await process.wait_closed()
    return streams


def _status(process: asyncssh.SSHClientProcess[bytes]) -> int:
    """The exit status of a command that has ended.

    Raises:
        HostUnreachable: the host did not say one, so the connection was lost.
    """
    if process.exit_signal is not None:
        return 128 + _SIGNALS.get(process.exit_signal[0], 0)
    if process.exit_status is None:
        raise HostUnreachable("the connection was lost while a command ran")
    return int(process.exit_status)


_SIGNALS = {"HUP": 1, "INT": 2, "QUIT": 3, "ILL": 4, "ABRT": 6, "FPE": 8, "KILL": 9, "SEGV": 11, "PIPE": 13, "TERM": 15}
"""Signals by the names that RFC 4254, 6.10 gives them."""


class _mapped:  # noqa: N801  used like a function
    """Turns what asyncssh raises into HostErrors that name the host."""

    def __init__(self, host: str) -> None:
        self._host = host

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if isinstance(error, TimeoutError | ConnectionError | asyncssh.DisconnectError | asyncssh.ChannelOpenError):
            raise HostUnreachable(f"{self._host}: the connection was lost: {error or 'no answer'}") from error
        if isinstance(error, asyncssh.SFTPConnectionLost | asyncssh.SFTPNoConnection):
            raise HostUnreachable(f"{self._host}: the connection was lost: {error}") from error
        if isinstance(error, asyncssh.SFTPError):
            raise HostError(f"{self._host}: {error.reason}") from error
