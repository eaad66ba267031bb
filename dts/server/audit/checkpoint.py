"""How far this host has seen the operation log, kept beside the server's key file and not in the store.

Whoever has the database alone can cut the log short and put its end back to match: inside the database nothing tells
that there was more. So each host that runs servers keeps the number and the hash of the last entry that it appended or
verified, under an HMAC with a key derived from the key file. It is never lowered by DTS; an administrator who has put a
backup in place removes the file, and the next entry or verification begins another one.
"""

from __future__ import annotations

import asyncio
import fcntl
import hashlib
import hmac
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from dts.errors import DtsError

_SIZE = 64 * 1024
"""Bytes that are read of the file at most: one that is larger is not ours."""


class CheckpointBroken(DtsError):
    """The anchor of the operation log cannot be read, or this server's key did not write it."""


@dataclass(frozen=True, slots=True)
class Mark:
    """An entry of the log: its number and its hash."""

    seq: int
    hash: str


class LogCheckpoint:
    """The mark in one file. Processes of a host share it; what they write at the same time, the furthest stays."""

    def __init__(self, folder: Path, store_url: str, key: bytes) -> None:
        """The anchor in a folder for the log of a store; its servers may serve other stores from the same folder."""
        self._store = _identity(store_url)
        self._key = key
        self.path = folder / f"operations-{self._store[:12]}.anchor"

    async def read(self) -> Mark | None:
        """The mark, or None if there is none yet.

        Raises:
            CheckpointBroken: the file is there and is not what a server with this key wrote.
        """
        return await asyncio.to_thread(self._read)

    async def advance(self, mark: Mark) -> None:
        """Put the mark further on, unless it is that far already.

        Raises:
            CheckpointBroken: the file that is there is not to be trusted, and stays.
            OSError: it cannot be written.
        """
        await asyncio.to_thread(self._advance, mark)

    def _read(self) -> Mark | None:
        try:
            with self.path.open("rb") as file:
                found = json.loads(file.read(_SIZE))
            mark = Mark(int(found["seq"]), str(found["hash"]))
            genuine = hmac.compare_digest(self._seal(mark).encode(), str(found["mac"]).encode())
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise CheckpointBroken(
                f"the anchor {self.path.name} beside the server's key file cannot be read"
            ) from error
        if not genuine:
            raise CheckpointBroken(
                f"the anchor {self.path.name} beside the server's key file was changed, or is of another key file"
            )
        return mark

    def _advance(self, mark: Mark) -> None:
        with self._locked():
            before = self._read()
            if before is None or before.seq < mark.seq:
                self._write(mark)

    def _write(self, mark: Mark) -> None:
        text = json.dumps({"seq": mark.seq, "hash": mark.hash, "mac": self._seal(mark)})
        handle, temporary = tempfile.mkstemp(dir=self.path.parent, prefix=f".{self.path.name}-")  # of mode 0600
        try:
            with os.fdopen(handle, "w", encoding="ascii") as file:
                file.write(text + "\n")
                file.flush()
                os.fsync(file.fileno())  # or a power cut could leave an empty file under the name
            os.replace(temporary, self.path)
        except BaseException:
            os.unlink(temporary)
            raise

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Be the only process of this host that writes here; ends with the process, whatever becomes of it."""
        folder = os.open(self.path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(folder, fcntl.LOCK_EX)
            yield
        finally:
            os.close(folder)

    def _seal(self, mark: Mark) -> str:
        text = json.dumps([self._store, mark.seq, mark.hash])
        return hmac.new(self._key, text.encode(), hashlib.sha256).hexdigest()


def _identity(store_url: str) -> str:
    """A name for a store that is the same however one signs in to it, and for a file wherever a server is started."""
    parts = urlsplit(store_url)
    if parts.scheme == "sqlite":
        place = str(Path(store_url.removeprefix("sqlite:///").partition("?")[0]).resolve())
    else:
        place = parts.netloc.rpartition("@")[2] + parts.path
    return hashlib.sha256(f"{parts.scheme}:{place}".encode()).hexdigest()
