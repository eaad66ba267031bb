"""The exceptions by which functions decide about their job, and those that DTS raises in functions."""

from __future__ import annotations

MAX_DELAY = 30 * 86400
"""The longest delay of a Retry in seconds: results are kept for days, so a longer wait would outlive its run."""


class Retry(Exception):
    """Raised by a function: this attempt failed, try again after `delay` seconds.

    Without a delay the usual backoff applies; a subclass may set it as an attribute. There are at most `max_attempts`
    attempts; where that is not set, the worker's `retry_limit`.

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
    """Raised by a function: this job has failed for good and is not tried again."""


class SoftTimeout(Exception):
    """Raised in a function when its attempt has run for `soft_timeout` seconds: clean up and end."""


class TimedOut(Exception):
    """How an async attempt ends at its hard timeout: its task is cancelled, so that concurrent jobs go on."""


class Cancelled(BaseException):
    """Raised in a function whose job was cancelled: clean up and end; the process is killed soon.

    Not an Exception, so that `except Exception` does not swallow it.
    """
