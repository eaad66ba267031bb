"""Checks whether a process on this host has a file open for writing, so that its content may be incomplete.

The kernel answers, by refusing a read lease (fcntl(2), F_SETLEASE): that takes microseconds, and works for files that
belong to the user of this process, or with CAP_LEASE, on local file systems. Elsewhere the descriptors of all
processes that may be seen are looked through. A writer on another host cannot be seen over a network file system, nor
one of another user where there are no leases.
"""

from __future__ import annotations

import errno
import fcntl
import os
import signal
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path


def is_open_for_writing(path: Path) -> bool:
    """Whether a file is open for writing, as far as that can be known. Raises OSError when it cannot be opened."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        # A process that opens it in this instant waits until the lease is released, and the kernel reports that by a
        # signal: by one that does nothing, since SIGIO would end this process.
        fcntl.fcntl(descriptor, fcntl.F_SETSIG, signal.SIGURG)
        fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_RDLCK)
        fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    except OSError as error:
        return error.errno == errno.EAGAIN or _is_found_open(descriptor)
    finally:
        os.close(descriptor)
    return False


def _is_found_open(descriptor: int) -> bool:
    """Look for the file of a descriptor among those that processes have open for writing."""
    ours = os.fstat(descriptor)
    return any((other.st_dev, other.st_ino) == (ours.st_dev, ours.st_ino) for other in _written_files())


def _written_files() -> Iterator[os.stat_result]:
    for process in filter(str.isdigit, os.listdir("/proc")):
        with suppress(OSError):  # it has ended, or belongs to another user
            for number in os.listdir(f"/proc/{process}/fd"):
                with suppress(OSError):
                    if os.lstat(f"/proc/{process}/fd/{number}").st_mode & 0o200:  # the link tells how it was opened
                        yield os.stat(f"/proc/{process}/fd/{number}")
