"""What is said once in a while, however often there is cause: a store that is away fails every request."""

from __future__ import annotations

import time

_EVERY = 10.0


class LogThrottle:
    """Tells whether it is time to say something again; `seconds` pass in between."""

    def __init__(self, seconds: float = _EVERY) -> None:
        self._seconds = seconds
        self._again = 0.0

    def is_news(self) -> bool:
        """Whether nothing was said for so long; who asks says it then."""
        now = time.monotonic()
        if now < self._again:
            return False
        self._again = now + self._seconds
        return True
