"""Gives away jobs of a message that takes longer than it should, so that a wrong estimate costs nothing.

A message is made for about 50 ms of work. When it has not ended after twice that, the jobs that are not begun go
back to the queue as new messages of the right size. A message of one job is never split, and new messages are smaller
than what they came from, so this comes to an end.
"""

from __future__ import annotations

from dts.worker.child.active_batch import ActiveBatch
from dts.worker.child.outbox import Outbox


class Splitter:
    """Splits one message: `after` is in seconds, `slice_seconds` the work that a new message should hold."""

    def __init__(self, batch: ActiveBatch, outbox: Outbox, after: float, slice_seconds: float) -> None:
        self._batch, self._outbox = batch, outbox
        self._after, self._slice = after, slice_seconds
        self._ended, self._progress = 0, 0.0

    def look(self, now: float) -> None:
        """Helper thread: give away what others may do sooner."""
        ended = len(self._outbox.ended)
        if ended != self._ended:
            self._ended, self._progress = ended, now
        waiting, began = self._batch.waiting, self._batch.began
        if not waiting or now - began < self._after or self._batch.batch.lease:
            return
        if len(waiting) == len(self._batch.jobs):
            return  # it still imports the function's module, as everybody else would have to
        stuck = now - max(self._progress, began) >= self._after
        slots = self._batch.terms.common.concurrency if self._batch.is_async else self._batch.at_once
        size = max(slots, int(self._slice * ended / (now - began)))
        # One that goes on well keeps a message's worth for itself, and does not bother for less than another one.
        keep = 0 if stuck or not ended else size
        if len(waiting) > 2 * keep:
            self._outbox.give_away(lambda: self._take(keep, size))

    def _take(self, keep: int, size: int) -> list[list[int]]:
        """Take all but `keep` of the waiting jobs, as lists of `size`."""
        waiting, taken = self._batch.waiting, []
        try:
            while len(waiting) > keep:
                taken.append(waiting.pop())
        except IndexError:
            pass  # the main thread was faster
        taken.reverse()
        return [taken[first : first + size] for first in range(0, len(taken), size)]
