"""What the worker has heard of cancelled runs and jobs."""

from __future__ import annotations

from collections import OrderedDict

from dts.errors import DtsError
from dts.wire import codec
from dts.wire.dts_pb2 import JobBatch
from dts.worker.link.batches import slice_batch
from dts.worker.pool.child_process import Assignment

MAX_REMEMBERED = 10_000
"""Runs that are remembered; the oldest are forgotten, their jobs have been passed over by then."""
_MAX_DIGITS = 18  # of a job's number


class Cancellations:
    """Cancelled runs, and numbers of cancelled jobs by run."""

    def __init__(self) -> None:
        self._runs: OrderedDict[str, None] = OrderedDict()
        self._jobs: OrderedDict[str, set[int]] = OrderedDict()

    def learn(self, payload: str) -> set[str]:
        """Take in an event's payload; returns the runs that it says anything new about.

        A token is the id of a run, or of a job, `<run>-<number>`; of other kinds, with a colon, nothing is known yet.
        """
        touched = set()
        for token in payload.split():
            if ":" in token:
                continue
            run, dash, number = token.rpartition("-")
            if dash and number.isascii() and number.isdigit() and len(number) <= _MAX_DIGITS:
                numbers = self._jobs.setdefault(run, set())
                if int(number) not in numbers:
                    numbers.add(int(number))
                    touched.add(run)
            elif token not in self._runs:
                self._runs[token] = None
                touched.add(token)
        for known in (self._runs, self._jobs):
            while len(known) > MAX_REMEMBERED:
                known.popitem(last=False)
        return touched

    def has_run(self, run: str) -> bool:
        """Whether a run was cancelled as a whole."""
        return run in self._runs

    def concerns(self, run: str) -> bool:
        """Whether anything of a run was cancelled."""
        return run in self._runs or run in self._jobs

    def positions(self, run: str, assignment: Assignment) -> tuple[list[int], JobBatch | None]:
        """The cancelled jobs of an assignment, of which not the whole run is, by position, and its jobs if any are."""
        numbers = self._jobs.get(run)
        if not numbers or assignment.number is None:
            return [], None
        try:
            batch = codec.decode(JobBatch, assignment.body, assignment.content_encoding)
        except DtsError:
            return [], None  # a child will say so
        first = assignment.number
        return [at for at, job in enumerate(batch.jobs) if first + job.index in numbers], batch

    def sift(self, run: str, assignment: Assignment) -> Assignment | None:
        """An assignment without its cancelled jobs; None when there are no others."""
        if run in self._runs:
            return None
        found, batch = self.positions(run, assignment)
        if not found or batch is None:
            return assignment
        left = [at for at in range(len(batch.jobs)) if at not in set(found)]
        if not left:
            return None
        assignment.body, assignment.content_encoding = codec.encode(slice_batch(batch, left))
        return assignment
