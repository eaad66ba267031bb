"""Disks and certificates that rules are about. They are read beside each other, in threads: one that does not answer,
such as a folder of a file server that is away, keeps nothing else waiting, and is not asked again until it has.
"""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import ssl
import stat
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509

from dts.model import AlertRule

logger = logging.getLogger(__name__)

_PATIENCE = 4.0
"""Seconds that an evaluation waits for targets, the lead of alerts being held for longer; then it goes by what was read
of them last."""

_AT_ONCE = 16  # targets that are read at a time

_CONNECT = 10.0  # seconds to fetch a certificate

_MAX_FILE = 1024 * 1024  # bytes that are read of a file with a certificate

Target = tuple[str, str]
"""The kind of a rule, and what it is about."""


class Targets:
    """Reads targets, and remembers what was read of them last."""

    def __init__(self, *, patience: float = _PATIENCE) -> None:
        self._patience = patience
        self._threads = ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="alert-target")
        self._reading: dict[Target, asyncio.Future[float | None]] = {}
        self._read: dict[Target, tuple[float, float | None]] = {}
        self._late: set[Target] = set()

    async def look(self, rules: Iterable[AlertRule]) -> dict[Target, float]:
        """How full the disks are, in percent, and for how many days the certificates are valid, as far as is known."""
        wanted = {(rule.kind, rule.target) for rule in rules if rule.kind in _READERS}
        loop, now = asyncio.get_running_loop(), time.monotonic()
        for kind, target in wanted - self._reading.keys():
            read, every = _READERS[kind]
            if (known := self._read.get((kind, target))) is None or now - known[0] >= every:
                self._reading[kind, target] = loop.run_in_executor(self._threads, read, target)
        if self._reading:
            await asyncio.wait(self._reading.values(), timeout=self._patience)
        self._take(now)
        self._read = {target: known for target, known in self._read.items() if target in wanted}
        values = {target: value for target, (_, value) in self._read.items() if value is not None}
        today = time.time()
        return {(kind, name): _figure(kind, value, today) for (kind, name), value in values.items()}

    def _take(self, now: float) -> None:
        """Remember what has been read, and say once of each target that does not answer that it does not."""
        for target, future in list(self._reading.items()):
            if future.done():
                del self._reading[target]
                self._late.discard(target)
                self._read[target] = now, future.result()
            elif target not in self._late:
                self._late.add(target)
                logger.warning(
                    "%s does not answer: its %s is taken to be what it was, if that is known, until it does",
                    *(target[1], target[0]),
                )


def _figure(kind: str, value: float, now: float) -> float:
    return (value - now) / 86400 if kind == "certificate" else value


def _used(folder: str) -> float | None:
    """How much of the disk of a folder is used, in percent; None if there is no such folder."""
    try:
        usage = shutil.disk_usage(folder)
    except OSError as error:
        logger.warning("the disk of %s cannot be looked at: %s", folder, error)
        return None
    return 100.0 * usage.used / max(1, usage.used + usage.free)


def _valid_until(target: str) -> float | None:
    """When a certificate runs out, of a file in PEM or of what listens at host:port; None if it cannot be read."""
    host, colon, port = target.rpartition(":")
    try:
        if colon and port.isdigit() and "/" not in target:
            text = ssl.get_server_certificate((host.strip("[]"), int(port)), timeout=_CONNECT)
        else:
            text = _text_of(target)
        until: datetime = x509.load_pem_x509_certificate(text.encode()).not_valid_after_utc
    except (OSError, ValueError, OverflowError) as error:
        logger.warning("no alert can come of the certificate of %s, since it cannot be read: %s", target, error)
        return None
    return until.astimezone(UTC).timestamp()


def _text_of(path: str) -> str:
    """The beginning of a file, which may be no device or pipe: these never end."""
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise ValueError("it is not a regular file")
    with Path(path).open(encoding="ascii") as file:
        return file.read(_MAX_FILE)


_READERS: dict[str, tuple[Callable[[str], float | None], float]] = {
    "space": (_used, 0.0),
    "certificate": (_valid_until, 3600.0),
}
"""What reads the targets of a kind, and how many seconds it counts: a certificate runs out over days."""
