"""What a try of a request came to: an answer, or a failure and what it says of the server."""

from __future__ import annotations

import email.utils
import math
import time
from dataclasses import dataclass
from socket import gaierror

import msgspec

from dts.auth import WINDOW
from dts.client.connections import ConnectError, NoTls, Response

FIRST_DELAY = 0.1
"""Seconds before the first repetition of a request."""

MAX_RETRY_AFTER = 60.0
"""Seconds; more than this is not worth believing."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A successful answer: its status (2xx) and its body, which took so many seconds to come once it began to."""

    status: int
    body: bytes
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Failure:
    """A try that may be repeated.

    `taken` is whether the server may have acted on it, `silent` whether it did not answer in time, `stale` whether a
    connection from earlier turned out to be closed, which says nothing of the server. `over` is the limit that the
    caller is over, if that is why.
    """

    reason: str
    retry_after: float | None = None
    reached: bool = False
    taken: bool = True
    over: str = ""
    code: str = ""
    silent: bool = False
    stale: bool = False

    def away_since(self, began: float, wait: float) -> float:
        """Since when the server was away, if the try began at `began`; not while it was asked to wait."""
        if not (self.taken or self.reached):  # there was no connection
            return began
        now = time.monotonic()
        return min(began + wait, now) if self.silent else now


def parse_error(response: Response) -> tuple[str, str]:
    """Code and message of an error's body; the status in words when it is not one of DTS's."""
    try:
        error = msgspec.json.decode(response.body)["error"]
        return str(error["code"]), str(error["message"])
    except (msgspec.MsgspecError, UnicodeDecodeError, KeyError, TypeError):
        return "", f"HTTP {response.status} {response.reason}"


def parse_retry_after(value: str | None) -> float | None:
    """Seconds, however many the server says; the form with a date is left to the backoff."""
    try:
        seconds = float(value or "nan")
    except ValueError:
        return None
    return None if math.isnan(seconds) else min(max(seconds, FIRST_DELAY), MAX_RETRY_AFTER)


def clock_skew(date: str | None) -> float:
    """By how many seconds the server's clock is ahead of this machine's; 0 when it does not say."""
    try:
        return email.utils.parsedate_to_datetime(date or "").timestamp() - time.time()
    except ValueError:
        return 0.0


def clock_hint(date: str | None) -> str:
    """What to say when the clocks are so far apart that no signature can be valid."""
    apart = abs(clock_skew(date))
    return f", and this machine's clock, which differs from the server's by {apart:.0f} s" if apart > WINDOW else ""


def error_in_words(error: OSError) -> str:
    """Why there was no answer."""
    cause = error.__cause__ if isinstance(error, ConnectError) else error
    if isinstance(error, NoTls):
        return "it takes connections, but does not speak TLS: should its URL begin with http://?"
    if isinstance(cause, ConnectionRefusedError):
        return "connection refused"
    if isinstance(cause, gaierror):
        return "its host name is not known"
    if isinstance(cause, TimeoutError):
        return "timeout while connecting" if isinstance(error, ConnectError) else "timeout during request"
    if isinstance(cause, OSError) and cause.strerror:
        return cause.strerror.lower()
    return "it closed the connection"
