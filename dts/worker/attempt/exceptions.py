"""Exceptions that functions raise to say what shall become of their job, and that are raised in them."""

from __future__ import annotations

MAX_DELAY = 30 * 86400
"""Seconds that a function may have its next attempt wait: who waits for the result should live to see it."""


class Retry(Exception):
    """Raised by a function: this attempt came to nothing, try again after `delay` seconds.

    Without a delay the usual backoff applies; a subclass may have one as an attribute. It is bounded by the job's
    `max_attempts`; where nobody has set any, by the worker's `retry_limit`.

    Raises:
        ValueError: the delay is negative, or over `MAX_DELAY`.
    """

    delay: float | None = None

    def __init__(self, message: str = "", *, delay: float | None = None) -> None:
        super().__init__(message or "the function asked for another attempt")
        if delay is not None and not 0 <= delay <= MAX_DELAY:
            raise ValueError(
                f"the delay of a retry is a number of seconds from 0 to {MAX_DELAY}, 30 days, not {delay!r}"
            )
        if delay is not None:
            self.delay = delay


class Fail(Exception):
    """Raised by a function: this job has failed, and no other attempt would help."""


class SoftTimeout(Exception):
    """Raised in a function whose attempt has run for `soft_timeout` seconds: clean up and end."""


class TimedOut(Exception):
    """What an async attempt ended by that its loop has cancelled at its hard limit, so that none beside it suffers."""


class Cancelled(BaseException):
    """Raised in a function whose job was cancelled: clean up and end; the process is killed soon.

    Not an Exception, so that `except Exception` does not swallow it.
    """
