"""How workers ask a server for what belongs to the fleet: requests signed with the fleet's key, for no user."""

from __future__ import annotations

from dts.auth import Credentials
from dts.wire.seal import Seal

FLEET_USER = "fleet"
"""The id under which they are signed. A user of that name has nothing to do with it: the keys differ, and the paths."""

FLEET_PATH = "/fleet/"
"""What these paths begin with."""


def fleet_credentials(seal: Seal) -> list[Credentials]:
    """What requests of the fleet may be signed with, one for each of its keys; the first one signs."""
    return [Credentials(FLEET_USER, secret) for secret in seal.derive("requests")]


def version_path(function: str, version: str) -> str:
    """Where the source of a version is."""
    return f"{FLEET_PATH}versions/{function}/{version}"
