"""One message as a child works at it."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence

from dts.wire.dts_pb2 import Job, JobBatch
from dts.worker.attempt.terms import Terms, TermsOf
from dts.worker.child.yielded import Yielded
from dts.worker.link.batches import slice_batch
from dts.worker.link.board import Board


class ActiveBatch:
    """The jobs of a message, and which of them are not begun.

    `waiting` holds the positions of the latter. Main takes them from its left end, one at a time; the helper thread
    may take any to give them away or to cancel them. Each taking is one atomic operation of the deque, so that no job
    is ever both run and given away, and the main thread pays for no lock. `number` is that of the block's job 0 in its
    run, if it is known. `began` is when its first job could begin, by the monotonic clock. `first` is the place of its
    first job on the board, None for a message that has it for itself; `states`, `limits` and `begins` are its part of
    that, by position.
    """

    def __init__(
        self,
        ticket: int,
        batch: JobBatch,
        defaults: Terms,
        board: Board,
        *,
        number: int | None = None,
        first: int | None = None,
    ) -> None:
        self.ticket = ticket
        self.first = first or 0
        self.states: memoryview[int] = board.states
        self.limits: memoryview[float] = board.limits
        self.begins: memoryview[float] = board.begins
        if first is not None:
            self.states, self.limits, self.begins = board.view(first, len(batch.jobs))
        self.batch = batch
        self.jobs: Sequence[Job] = batch.jobs
        self.terms = TermsOf(batch, defaults)
        self.number = number
        self.waiting = deque(range(len(self.jobs)))
        self.at_once = 1
        """How many of its plain jobs one call runs."""
        self.together: Sequence[int] = ()
        """Positions of the jobs that a call of `main_many` is at."""
        self.began = time.monotonic()
        self.cancel: Callable[[ActiveBatch, int, BaseException], None] | None = None
        """Any thread: has the event loop cancel the async job at a position and report the exception; None when its
        jobs are not async."""
        self.cancelled: set[int] = set()
        """Positions of jobs that were ordered to stop; their results are dropped."""
        self.progress: dict[int, tuple[float, float]] = {}
        """The last progress that each job has reported, by position: done and total."""
        self.progressed: set[int] = set()
        """Positions of jobs that have reported progress since it was last sent."""
        self.yielded: dict[int, Yielded] = {}
        """What the jobs at work have yielded, by position."""

    @property
    def is_async(self) -> bool:
        """Whether its jobs run at the same time, on an event loop."""
        return self.cancel is not None

    def job_id(self, position: int) -> str:
        """The id of a job, `<run>-<number>`; empty when its number is not known."""
        if self.number is None:
            return ""
        return f"{self.batch.run}-{self.number + self.jobs[position].index}"

    def slice(self, positions: Sequence[int]) -> JobBatch:
        """A message with some of the jobs."""
        return slice_batch(self.batch, positions)
