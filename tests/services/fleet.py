"""Brokers as the processes of a fleet open them: with the seal of its key file."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from dts.broker import Broker, open_broker
from dts.config import Settings
from dts.runtime.fleet_key import make_fleet_key, read_fleet_key
from dts.wire.seal import Seal

KEY = bytes(range(32))


def a_fleet_key(path: Path) -> Seal:
    """A key file for processes that run without a server, and its seal."""
    return make_fleet_key(path, KEY)


def open_sealed(settings: Settings, url: str | None = None) -> Broker:
    """The broker of a server that was started with these settings, or another one of its fleet."""
    opener = partial(open_broker, seal=read_fleet_key(settings.fleet_key_file))
    return opener(settings.broker.url) if url is None else opener(url)
