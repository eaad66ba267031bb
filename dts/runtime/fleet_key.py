"""The fleet's key file, with which messages are sealed: see `dts.wire.seal`."""

from __future__ import annotations

import asyncio
import logging
import secrets
from pathlib import Path

from dts.config import Settings
from dts.errors import ConfigError
from dts.runtime.private_files import create_private
from dts.wire.seal import Seal

logger = logging.getLogger(__name__)

_MIN_KEY = 32  # characters: 128 bits when they are hexadecimal digits

_LOOK_EVERY = 0.2
"""Seconds between looks for the file: a worker and a server that start together must not wait long for each other."""

_COPYING = 30.0
"""Seconds for which a file that was waited for may be empty or unreadable: it is being copied."""


def read_fleet_key(path: Path) -> Seal | None:
    """The seal of a fleet's key file, which has one key a line; None if there is no such file.

    Raises:
        ConfigError: the file cannot be read, or has no key or a short one in it.
    """
    try:
        lines = path.read_text(encoding="ascii").split()
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"the fleet's key file {path} cannot be read: {error}") from error
    if not lines or min(map(len, lines)) < _MIN_KEY:
        raise ConfigError(
            f"the fleet's key file {path} holds no key: each line must have {_MIN_KEY} characters or more; "
            "copy the file of a server, or move it away and start a server, which makes one"
        )
    return Seal([line.encode() for line in lines])


def make_fleet_key(path: Path, key: bytes) -> Seal:
    """The seal of a fleet's key file; the file is made with `key`, for its owner alone, if there is none.

    Raises:
        ConfigError: the file cannot be read or made.
    """
    try:
        if create_private(path, key.hex().encode() + b"\n"):
            logger.info("made the fleet's key file %s: daemons and workers on other hosts need a copy of it", path)
    except OSError as error:
        raise ConfigError(f"the fleet's key file {path} cannot be made: {error}") from error
    seal = read_fleet_key(path)
    if seal is None:
        raise ConfigError(f"the fleet's key file {path} was removed while this process started")
    return seal


async def find_fleet_key(settings: Settings, stop: asyncio.Event) -> Seal | None:
    """The seal of the fleet, for a process that is no server; None if `stop` is set before there is one.

    The queues of one machine need no other host's key: with them the file is made if it is not there. Otherwise it is
    waited for, until a server on this host has made it or an operator has copied it.

    Raises:
        ConfigError: the file cannot be read or made, or has no key in it.
    """
    path, warned, unreadable = settings.fleet_key_file, False, 0
    if settings.broker.url.startswith("sqlite:"):
        return make_fleet_key(path, secrets.token_bytes(32))
    while not stop.is_set():
        try:
            if (seal := read_fleet_key(path)) is not None:
                return seal
            unreadable = 0
        except ConfigError:
            unreadable += 1
            if not warned or unreadable * _LOOK_EVERY > _COPYING:
                raise
        if not warned:
            logger.warning("waiting for the fleet's key file %s: copy it from a server, with mode 0600", path)
            warned = True
        try:
            await asyncio.wait_for(stop.wait(), _LOOK_EVERY)
        except TimeoutError:
            continue
    return None
