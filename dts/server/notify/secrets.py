"""The keys that webhooks are signed with: each URL has one of its own, derived from the fleet's key file."""

from __future__ import annotations

import base64
import hmac
from pathlib import Path

from dts.errors import ConfigError
from dts.server.notify.webhook import SECRET_PREFIX


def webhook_keys(path: Path, owner: str, url: str) -> list[bytes]:
    """The keys for a webhook of `owner`, a user or empty for the administrators: one for each key in the fleet's file.

    Raises:
        ConfigError: the file cannot be read, or has no key.
    """
    try:
        lines = path.read_bytes().split()
    except OSError as error:
        raise ConfigError(
            f"the fleet's key file {path}, which webhooks are signed with, cannot be read: {error}"
        ) from error
    if not lines:
        raise ConfigError(f"the fleet's key file {path}, which webhooks are signed with, is empty")
    return [hmac.digest(line, f"dts-webhook\n{owner}\n{url}".encode(), "sha256") for line in lines]


def webhook_secret(path: Path, owner: str, url: str) -> str:
    """What the receiver of a webhook verifies signatures with, as Standard Webhooks writes it.

    Raises:
        ConfigError: as `webhook_keys`.
    """
    return SECRET_PREFIX + base64.b64encode(webhook_keys(path, owner, url)[0]).decode()
