"""A backup of all that administrators keep, out of a server and into a file, and back."""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import json
import os
import secrets
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import IO, cast

from dts.client.transport import Transport
from dts.errors import ConfigError, InvalidInput
from dts.management.api.resources import Record

_WAIT = 1800.0
"""Seconds that a server may take to put a backup into its store: some 1,000 entries of the log a second."""

_PAGE_BYTES = 4 * 1024 * 1024


async def backup(transport: Transport, path: Path, *, runs: bool) -> int:
    """Write a backup to a file, which is there when it is whole; returns how many rows it has.

    Raises:
        ConfigError: the file cannot be written.
        RequestRefused, ServerUnavailable: the server did not give it.
    """
    try:
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
    except OSError as error:
        raise ConfigError(f"cannot write {path}: {error.strerror or error}") from error
    try:
        with os.fdopen(handle, "wb") as file:
            count = await _write(transport, file, runs)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise ConfigError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        with suppress(FileNotFoundError):
            os.unlink(temporary)
    return count


async def _write(transport: Transport, file: IO[bytes], runs: bool) -> int:
    digest, count, after = hashlib.sha256(), 0, ""
    with gzip.GzipFile(fileobj=file, mode="wb", compresslevel=6) as packed:
        while True:
            query = {"after": after, "runs": str(runs).lower()} if after else {"runs": str(runs).lower()}
            page = cast(Record, await transport.call("GET", "/admin/backup", query=query))
            for row in page["rows"]:
                line = json.dumps(row, separators=(",", ":")).encode() + b"\n"
                digest.update(line)
                packed.write(line)
                count += 1
            after = page["next"]
            if not after:
                break
        packed.write(json.dumps({"type": "end", "rows": count, "sha256": digest.hexdigest()}).encode() + b"\n")
    return count


async def restore(transport: Transport, path: Path) -> Record:
    """Put a backup into the store of a server; returns how much of each kind was put there.

    Raises:
        ConfigError: the file cannot be read.
        InvalidInput: it is no backup, or not a whole one.
        RequestRefused, ServerUnavailable: the server did not take it.
    """
    await asyncio.to_thread(_check, path)
    session, pages, rows, size = secrets.token_hex(16), 0, list[object](), 0
    for line in _lines(path):
        row = json.loads(line)
        if row["type"] != "end":
            rows.append(row)
            size += len(line)
        if rows and (size >= _PAGE_BYTES or row["type"] == "end"):
            await transport.call("PUT", f"/admin/restore/{pages}", {"session": session, "rows": rows})
            pages, rows, size = pages + 1, [], 0
    params = {"session": session, "pages": pages}
    return cast(Record, await transport.call("POST", "/admin/restore", params, wait=_WAIT))


def _check(path: Path) -> None:
    """Make sure that a file is a whole backup, before anything of it is sent."""
    digest, count, last = hashlib.sha256(), 0, b""
    for line in _lines(path):
        if last:
            digest.update(last)
            count += 1
        last = line
    try:
        end = json.loads(last)
        whole = end["type"] == "end" and (end["rows"], end["sha256"]) == (count, digest.hexdigest())
    except (ValueError, KeyError, TypeError):
        whole = False
    if not whole:
        raise InvalidInput(f"{path} is not a whole backup: it was cut off or changed after it was made")


def _lines(path: Path) -> Iterator[bytes]:
    try:
        with gzip.open(path, "rb") as file:
            yield from file
    except EOFError as error:
        raise InvalidInput(f"{path} is not a whole backup: it was cut off") from error
    except gzip.BadGzipFile as error:
        raise InvalidInput(f"{path} is not a backup") from error
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror or error}") from error
