"""Files that rows are written to. What is written is with the operating system when `write` returns."""

from __future__ import annotations

import datetime
import errno
import fcntl
import logging
import os
import stat
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Protocol
from zlib import crc32

from dts.client.components import STANDARD_STREAM, file_identity
from dts.client.descriptors import shared_descriptor, write_some
from dts.errors import ClientError, FileBusy, ReaderGone

logger = logging.getLogger(__name__)


class Output(Protocol):
    """Something that whole rows can be written to. Every method may block."""

    @property
    def name(self) -> str:
        """Its name for a person to read."""
        ...

    @property
    def identity(self) -> tuple[int, int] | None:
        """What tells the open file from others; None when it is not a regular file."""
        ...

    def open(self) -> None:
        """Make sure that it can be written, without a change to what is there."""

    def lock(self) -> None:
        """Keep others from writing it at the same time, until it is closed."""

    def begin(self, size: int | None = None) -> None:
        """Lock it and get ready for the first row: what is there is overwritten, unless the class says otherwise.

        With a `size` the first so many bytes stay.
        """

    def write(self, rows: bytes) -> None:
        """Write whole rows, all of them or none."""

    def written(self) -> tuple[int, int]:
        """How many bytes it has now, and a checksum of those that came since this was last asked for."""
        ...

    def sync(self) -> None:
        """Have what was written on disk."""

    def close(self) -> None:
        """Close it; may be called twice."""


class OutputFile:
    """A file, or standard output when `path` is `-`. An existing file is overwritten.

    Until it is closed, no other OutputFile can write there, in this process or another. When a write fails half-way, as
    on a full disk, the half row is cut off again. A path such as /dev/stdout is the open descriptor itself: rows follow
    what others have written there.
    """

    def __init__(self, path: str | os.PathLike[str], *, append: bool = False) -> None:
        self._descriptor = -1
        self.path = os.fspath(path)
        self._append = append
        self._shared = 1 if self.path == STANDARD_STREAM else shared_descriptor(self.path)
        self._regular = False
        self._size = 0
        self._crc = 0
        self._unsynced = False
        self._is_new = False

    @property
    def name(self) -> str:
        """The file's name for a person to read."""
        return self.path if self._shared is None else _STANDARD.get(self._shared, self.path)

    @property
    def identity(self) -> tuple[int, int] | None:
        """What tells the open file from others, whatever its name; None when it is not a regular file."""
        return file_identity(self._descriptor)

    def open(self) -> None:
        """Open the file, creating it when it is missing.

        Raises:
            ClientError: it cannot be written.
        """
        if self._descriptor >= 0:
            return
        try:
            self._descriptor = self._open() if self._shared is None else _writable(self._shared)
            status = os.fstat(self._descriptor)
        except OSError as error:
            raise self._failure(error) from error
        self._regular = stat.S_ISREG(status.st_mode)

    def _open(self) -> int:
        try:
            return os.open(self.path, os.O_WRONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            try:
                descriptor = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
            except FileExistsError:  # another client was faster, or it is a link to what is not there yet
                return os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o666)
            self._is_new = True
            return descriptor

    def lock(self) -> None:
        """Keep others from writing it at the same time; nobody is kept from writing standard output or a device.

        Raises:
            ClientError: another client writes it, or it cannot be written.
        """
        self.open()
        if not self.regular:
            return
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise FileBusy(f"cannot write {self.name}: it is being written by another dts-client") from error
        except OSError as error:  # this file system has no locks
            logger.info("%s is not locked: %s", self.name, error.strerror)

    @property
    def regular(self) -> bool:
        """Whether it is a file with a name and an end, and not a pipe, a terminal or a device."""
        return self._regular and self._shared is None

    def begin(self, size: int | None = None) -> None:
        """Lock the file and empty it but for the first `size` bytes, or go to its end when it is appended to.

        Raises:
            ClientError: it cannot be written, or another client writes it.
        """
        self.lock()
        self._is_new = False
        if not self.regular:  # whoever redirected it has said whether it is emptied
            return
        try:
            if self._append:
                self._size = os.lseek(self._descriptor, 0, os.SEEK_END)
            else:
                self._size = size or 0
                os.ftruncate(self._descriptor, self._size)
                os.lseek(self._descriptor, self._size, os.SEEK_SET)
        except OSError as error:
            raise self._failure(error) from error

    def write(self, rows: bytes) -> None:
        """Write whole rows.

        Raises:
            ClientError: the disk is full, the reader of standard output has gone, …
        """
        rest = memoryview(rows)
        try:
            if self._regular:
                self._find_end()
            while rest:
                rest = rest[write_some(self._descriptor, rest) :]
        except OSError as error:
            self._cut_off(len(rows) - len(rest))
            raise self._failure(error) from error
        self._size += len(rows)
        self._crc = crc32(rows, self._crc)
        self._unsynced = True

    def written(self) -> tuple[int, int]:
        """How many bytes it has now, and a checksum of those that came since this was last asked for."""
        crc, self._crc = self._crc, 0
        return self._size, crc

    def sync(self) -> None:
        """Have what was written on disk.

        Raises:
            ClientError: it cannot be.
        """
        if not self._unsynced or not self._regular:
            return
        try:
            if self.regular and not self._append:
                self._check_size(os.fstat(self._descriptor).st_size)
                self._check_place()
            os.fsync(self._descriptor)
        except OSError as error:
            raise self._failure(error) from error
        self._unsynced = False

    def close(self) -> None:
        """Close the file; a shared descriptor stays open. A file that was made for nothing is taken away again."""
        if self._descriptor >= 0 and self._shared is None:
            if self._is_new:
                with suppress(OSError):
                    os.unlink(self.path)
            os.close(self._descriptor)
        self._descriptor = -1

    def __del__(self) -> None:
        """A file that nobody can write to any more is locked no longer."""
        self.close()

    def _find_end(self) -> None:
        """Find where the next byte is written: other programs may have written to the file, or cut it.

        Raises:
            ClientError: rows that were written are not there any more.
        """
        size = os.fstat(self._descriptor).st_size
        if self.regular and not self._append:
            self._check_size(size)
        elif self._shared is not None and fcntl.fcntl(self._descriptor, fcntl.F_GETFL) & os.O_APPEND:
            self._size = size
        else:  # beyond the end there would be a hole
            at = os.lseek(self._descriptor, 0, os.SEEK_CUR)
            self._size = at if at <= size else os.lseek(self._descriptor, 0, os.SEEK_END)

    def _check_size(self, size: int) -> None:
        if size < self._size:
            raise ClientError(f"another program has cut {self.name} to {size} bytes: rows are missing")

    def _check_place(self) -> None:
        """Check that the file still has its name.

        Raises:
            ClientError: another file has it, or none.
        """
        try:
            status = os.stat(self.path)
        except FileNotFoundError:
            status = None
        if status is None or (status.st_dev, status.st_ino) != self.identity:
            raise ClientError(f"another program has moved or deleted {self.name}: its rows are not in it any more")

    def _cut_off(self, written: int) -> None:
        """Take back the bytes of rows that were not written to their end."""
        if not written or not self._regular:
            return
        if self._shared is not None and os.fstat(self._descriptor).st_size != self._size + written:
            return  # what follows is another program's
        os.ftruncate(self._descriptor, self._size)
        os.lseek(self._descriptor, self._size, os.SEEK_SET)

    def _failure(self, error: OSError) -> ClientError:
        if isinstance(error, BrokenPipeError):
            return ReaderGone(f"{self.name} was closed by its reader")
        return ClientError(f"cannot write {self.name}: {error.strerror}")


_STANDARD = {1: "standard output", 2: "standard error"}


def _writable(descriptor: int) -> int:
    """An open descriptor, as it is.

    Raises:
        OSError: it is not open, or only to be read.
    """
    if fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
        raise OSError(errno.EBADF, "it is open for reading only")
    return descriptor


class DailyRotatingOutputFile:
    """Files whose names carry the day: rows for `out.json` go to `out-2024-02-29.json`, and after midnight to the next.

    The day is the local one. A day's file that exists already is appended to, so that two runs on one day are both
    kept, one after the other. While another client writes the next day's file, rows still go to the last one's. `today`
    is the clock.
    """

    def __init__(
        self, path: str | os.PathLike[str], *, today: Callable[[], datetime.date] = datetime.date.today
    ) -> None:
        self.path = os.fspath(path)
        self._today = today
        self._day: datetime.date | None = None
        self._file: OutputFile | None = None

    @property
    def name(self) -> str:
        """The current file's name for a person to read."""
        return self.path if self._file is None else self._file.name

    @property
    def identity(self) -> tuple[int, int] | None:
        """What tells the current file from others; None when it is not a regular file."""
        return None if self._file is None else self._file.identity

    def open(self) -> None:
        """Open today's file.

        Raises:
            ClientError: it cannot be written.
        """
        self._rotate()

    def lock(self) -> None:
        """Keep others from writing today's file at the same time, and from then on that of each day.

        Raises:
            ClientError: another client writes it, or it cannot be written.
        """
        self._rotate().lock()

    def begin(self, size: int | None = None) -> None:
        """Nothing is emptied: rows are added to the day's file.

        Raises:
            ClientError: it cannot be written, or another client writes it.
        """
        self._rotate().begin()

    def write(self, rows: bytes) -> None:
        """Write whole rows to today's file.

        Raises:
            ClientError: they cannot be written.
        """
        self._rotate().write(rows)

    def written(self) -> tuple[int, int]:
        """Nothing that could be resumed: the next rows may go to another file."""
        return 0, 0

    def sync(self) -> None:
        """Have what was written on disk.

        Raises:
            ClientError: it cannot be.
        """
        if self._file is not None:
            self._file.sync()

    def close(self) -> None:
        """Close the current file."""
        if self._file is not None:
            self._file.close()
        self._file = self._day = None

    def _rotate(self) -> OutputFile:
        day = self._today()
        if self._file is not None and day == self._day:
            return self._file
        path = Path(self.path)
        following = OutputFile(path.with_name(f"{path.stem}-{day.isoformat()}{path.suffix}"), append=True)
        if self._file is None:
            following.open()
        else:
            try:
                following.begin()
            except FileBusy:  # no reason to end a run that is under way: what it has goes to the old day's file
                following.close()
                return self._file
            self._file.sync()
            self._file.close()
        self._file, self._day = following, day
        return following
