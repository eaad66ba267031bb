"""Why a notice was not delivered."""

from __future__ import annotations

from dts.errors import DtsError


class NotDelivered(DtsError):
    """It was not delivered now, and may be later: the recipient's server is away, or busy."""


class Undeliverable(DtsError):
    """It will never be delivered: the address is refused, or the webhook may not be called."""
