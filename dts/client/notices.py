"""Messages about requests that take long: the server, the line, a limit or this machine is slow."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable

from dts.client.answers import Failure
from dts.client.traffic import Traffic

PATIENCE = 5.0
"""Seconds without an answer after which a message says so."""

RACE_AFTER = 5.0
"""Seconds in which nothing moves, before a request is made over a new connection, too."""

_LONG_UPLOAD = 10.0  # seconds of an upload that makes progress, after which a message says how fast the line is
_REMINDER = 60.0  # seconds after which a message names again the limit that holds requests up


class Notices:
    """Tells `notify` in a sentence when the server at `url` goes away and comes back, and what is slow.

    Which limit holds requests up is said each minute; that nothing moves once a minute at most, since a busy machine is
    slow again and again.
    """

    def __init__(self, url: str, notify: Callable[[str], None]) -> None:
        self.url = url
        self.notify = notify
        self._away: Failure | None = None
        self._heard = -math.inf
        self._held: dict[int, str] = {}
        self._told_of_limit = -math.inf
        self._told_of_silence = -math.inf
        self._told_of_pause = -math.inf

    @property
    def held_by(self) -> str:
        """The limit that a request waits for now, as the server puts it; empty when none does."""
        return next(iter(self._held.values()), "")

    def heard(self) -> None:
        """The server has answered a request."""
        self._heard = time.monotonic()

    def release(self, request: int) -> None:
        """The request of that id waits no longer."""
        self._held.pop(request, None)

    def describe(self, failure: Failure) -> str:
        """How the server is, by how a try failed."""
        state = "does not answer" if failure.silent else "is not ready" if failure.reached else "is not reachable"
        return f"server {self.url} {state} ({failure.reason})"

    def tell(self, request: int, failure: Failure) -> None:
        """Report why a request waits: the server is away, or a limit holds it up."""
        if not failure.over:
            self._held.pop(request, None)
            self._is_away(failure)
            return
        self._held[request] = failure.over
        now = time.monotonic()
        if now - self._told_of_limit >= _REMINDER:
            self._told_of_limit = now
            self.notify(f"{failure.over}; waiting")

    def _is_away(self, failure: Failure) -> None:
        """Report once that the server is away; and again when it was silent first and there is a reason now."""
        if self._away is None or (self._away.silent and not failure.silent):
            self.notify(f"{self.describe(failure)}; waiting")
            self._away = failure

    def is_back(self) -> None:
        """A request was answered with success."""
        if self._away is not None:
            self._away = None
            self.notify("server is back")

    def look_at(self, traffic: Traffic, still: asyncio.Future[None]) -> None:
        """Check whether a request makes progress; if not, report whether the line or the server is to blame."""
        quiet = traffic.quiet
        if not still.done() and quiet >= max(RACE_AFTER, traffic.sending_took):  # a slow line has buffers on its way
            still.set_result(None)
        now = time.monotonic()
        if self._away is not None or now - self._told_of_silence < _REMINDER:
            return
        if quiet >= PATIENCE and now - self._heard >= PATIENCE:  # none of the others was answered either
            self._told_of_silence = now
            self._away = Failure("", silent=True)
            self.notify(f"{self._silence(traffic)}; waiting")
        elif not quiet and traffic.unsent and traffic.seconds >= _LONG_UPLOAD:
            self._told_of_silence = now
            rate = (traffic.size - traffic.unsent) / traffic.seconds / 1024
            self.notify(f"the line to {self.url} is slow: it takes {rate:.0f} KiB/s of a block")

    def _silence(self, traffic: Traffic) -> str:
        if traffic.unsent:
            return f"the line to {self.url} has taken nothing for {PATIENCE:g} s"
        return f"server {self.url} has not answered for {PATIENCE:g} s"

    def stood_still(self, seconds: float) -> None:
        """This process did not run for so long: neither the line nor the server is to blame."""
        now = time.monotonic()
        if now - self._told_of_pause > 1.0:  # every request under way has noticed it
            self.notify(f"this client stood still for {seconds:.0f} s (suspended, or its machine is overloaded)")
        self._told_of_pause = now
