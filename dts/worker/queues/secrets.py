"""The secrets in messages' headers: encrypted for the fleet, opened here for the child that runs the jobs."""

from __future__ import annotations

import logging

from cachetools import LRUCache

from dts.broker import Delivery
from dts.errors import WireError
from dts.model.secrets import HEADER
from dts.runtime.log_throttle import LogThrottle
from dts.wire.confidential import decrypt
from dts.wire.seal import Seal

logger = logging.getLogger(__name__)

_KEPT = 256
"""Sets of secrets that are kept opened: one a namespace, and those that were changed lately."""


class SecretOpener:
    """Opens what is in headers. A worker without the fleet's key, as in tests, opens nothing."""

    def __init__(self, seal: Seal | None) -> None:
        self._seal = seal
        self._opened: LRUCache[tuple[str, str], bytes] = LRUCache(_KEPT)
        self._failed = LogThrottle()

    def of(self, delivery: Delivery, function: str) -> bytes:
        """The secrets for the function of a delivery, as JSON; empty for none, or if they cannot be opened."""
        text = delivery.message.headers.get(HEADER)
        if not isinstance(text, str) or self._seal is None:
            return b""
        key = function.partition("/")[0], text
        if key not in self._opened:
            try:
                self._opened[key] = decrypt(self._seal, *key)
            except WireError as error:
                if self._failed.is_due():
                    logger.error("the jobs of %s run without their secrets: %s", function, error)
                return b""
        return self._opened[key]
