"""Makes sure that what may run once runs once: in a folder, and on a port; names the process that is there already."""

from __future__ import annotations

import fcntl
import os
import socket
from pathlib import Path

import psutil

from dts.errors import ConfigError

_MAX_COMMAND = 100  # characters of another process's command line


def claim_folder(file: Path, what: str) -> int:
    """Lock a file, with this process's id in it; returns the descriptor that holds the lock until it is closed.

    The kernel lets go of it when this process ends, however that happens.

    Raises:
        ConfigError: another process holds it, or the file cannot be written.
    """
    try:
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        fd = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise ConfigError(f"cannot write {file}: {error.strerror or error}") from error
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        pid = os.read(fd, 20).decode(errors="replace").strip()
        os.close(fd)
        raise ConfigError(
            f"{what} runs in this folder already, as process {pid or '?'} (it holds {file}): stop that one first,"
            " or start this one in another folder"
        ) from None
    os.ftruncate(fd, 0)
    os.pwrite(fd, b"%d\n" % os.getpid(), 0)
    return fd


def check_port(host: str, port: int) -> None:
    """Make sure that a server could listen on an address; 0 stands for any port.

    Raises:
        ConfigError: it could not; the message names the process that listens there.
    """
    if not port:
        return
    try:
        found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        for family, kind, protocol, _, address in found:
            with socket.socket(family, kind, protocol) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                if family == socket.AF_INET6:
                    probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                probe.bind(address)
                probe.listen(1)
    except OSError as error:
        raise ConfigError(cannot_listen(host, port, error)) from error


def cannot_listen(host: str, port: int, error: OSError) -> str:
    """Why a server cannot listen on an address, in words, with the process that listens there and what to do."""
    by = f" by {holder}" if (holder := listener_of(port)) else ""
    return f"cannot listen on {host}:{port}: {error.strerror or error}{by}; choose another with --port or [server] port"


def listener_of(port: int) -> str:
    """The process that listens on a port, with its id and its command; empty if the system does not say."""
    try:
        pids = {
            each.pid
            for each in psutil.net_connections("tcp")
            if each.status == psutil.CONN_LISTEN and each.laddr[1:2] == (port,) and each.pid
        }
        return " and ".join(f"process {pid} ({_command(pid)})" for pid in sorted(pids))
    except (psutil.Error, OSError):
        return ""


def _command(pid: int) -> str:
    command = " ".join(psutil.Process(pid).cmdline())
    return command if len(command) <= _MAX_COMMAND else f"{command[: _MAX_COMMAND - 1]}…"
