"""The pace of a child: it decides whether the child is given a message in advance.

A child that works at quick messages is given one more than it works at, so that it never waits for the broker. A slow
one is not: what waits behind it could be begun by another child, or by another worker.
"""

from __future__ import annotations

QUICK = 0.15
"""Seconds within which a message ends that is quick."""
_REMEMBERED = 1.0  # seconds for which an idle child counts as quick after its last message
_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 10.0  # seconds until a busy event loop is given one more message


class Pace:
    """The pace of one child as of the last measurement. All times are monotonic, in seconds."""

    __slots__ = ("_pause", "_until", "engaged", "quick", "since")

    def __init__(self) -> None:
        self.quick = False
        """Whether the last message was quick, and so far the one at work is."""
        self.engaged = False
        """Whether what waits for this child is likely to wait for long."""
        self.since = 0.0
        """When it last began, or ended, something."""
        self._until, self._pause = 0.0, _FIRST_PAUSE

    def began(self, now: float) -> None:
        """The child has begun a message: after it was idle, or concurrently with others."""
        self.since = now

    def ended(self, took: float, now: float) -> None:
        """It has ended a message, which took so many seconds."""
        self.quick, self.engaged, self.since = took <= QUICK, False, now
        self._pause = _FIRST_PAUSE

    def measure(self, now: float, *, busy: bool) -> None:
        """Measure a child that works at one message or at none."""
        passed = now - self.since
        if busy and passed > QUICK:
            self.engaged, self.quick = True, False
        elif not busy and passed > _REMEMBERED:
            self.quick = False

    def measure_concurrent(self, now: float, *, since: float | None) -> None:
        """Measure a child that runs messages concurrently, and has had one that it has not begun `since` a time.

        It may run as many as it can, or its event loop may be blocked: it is given more when it has ended a message, or
        after a pause that doubles each time.
        """
        if since is not None and now - max(since, self.since) > QUICK:
            if not self.engaged:
                self._until, self._pause = now + self._pause, min(2 * self._pause, _LONGEST_PAUSE)
            self.engaged = True
        elif self.engaged and now > self._until:
            self.engaged = False
