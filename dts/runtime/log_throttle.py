"""Log lines for what happens often: a store that is away fails every request."""

from __future__ import annotations

import logging
import time

_EVERY = 10.0  # seconds


class LogThrottle:
    """Allows one log line in `seconds`."""

    def __init__(self, seconds: float = _EVERY) -> None:
        self._seconds = seconds
        self._again = 0.0

    def is_due(self) -> bool:
        """Whether nothing was logged for that long; the caller logs then."""
        now = time.monotonic()
        if now < self._again:
            return False
        self._again = now + self._seconds
        return True


class OutageLog:
    """Logs when a dependency fails first and when it works again, not each failure between.

    A dependency that fails and works by turns is logged once in `seconds` at most.
    """

    def __init__(self, logger: logging.Logger, seconds: float = _EVERY) -> None:
        self._logger = logger
        self._throttle = LogThrottle(seconds)
        self._failing = self._logged = False

    def failed(self, message: str, *args: object) -> None:
        """Log a failure as a warning, unless the last attempt failed, too."""
        if self._failing:
            return
        self._failing = True
        if self._throttle.is_due():
            self._logged = True
            self._logger.warning(message, *args)

    def worked(self, message: str, *args: object) -> None:
        """Log that it works again, if its failure was logged."""
        if self._logged:
            self._logger.info(message, *args)
        self._failing = self._logged = False
