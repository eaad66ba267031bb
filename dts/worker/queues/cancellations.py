"""Which runs and jobs are cancelled, as far as the worker has heard, and how their jobs at work are stopped."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from dts.errors import DtsError
from dts.wire import codec
from dts.wire.dts_pb2 import JobBatch
from dts.worker.link.batches import slice_batch
from dts.worker.pool.child_process import Assignment, ChildProcess
from dts.worker.queues.in_flight import in_flight

MAX_REMEMBERED = 10_000
"""Runs that are remembered; the oldest are forgotten, their jobs have been passed over by then."""
MAX_NUMBERS = 200_000
"""Single jobs that are remembered, of all runs together: about 20 MB."""
_MAX_DIGITS = 18  # of a job's number


class Cancellations:
    """Cancelled runs, and numbers of cancelled jobs by run."""

    def __init__(self) -> None:
        self._runs: OrderedDict[str, None] = OrderedDict()
        self._jobs: OrderedDict[str, set[int]] = OrderedDict()
        self._numbers = 0  # in all sets of `_jobs`

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
                    self._numbers += 1
                    touched.add(run)
            elif token not in self._runs:
                self._runs[token] = None
                touched.add(token)
        while len(self._runs) > MAX_REMEMBERED:
            self._runs.popitem(last=False)
        while self._jobs and (len(self._jobs) > MAX_REMEMBERED or self._numbers > MAX_NUMBERS):
            self._numbers -= len(self._jobs.popitem(last=False)[1])
        return touched

    def is_run_cancelled(self, run: str) -> bool:
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
            return [], None  # the child finds that out, too
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


def stop_cancelled(children: Sequence[ChildProcess], cancelled: Cancellations, runs: set[str], grace: float) -> bool:
    """Order the jobs at work of some runs to stop that are cancelled; those that do not within `grace` s are killed.

    Returns whether to try again in a moment, since a child was choosing its next message at this instant.
    """
    again = False
    for child in children:
        at_work = child.at_work
        for assignment in list(child.given):
            run = in_flight(assignment).run
            if run not in runs:
                continue
            whole, found = cancelled.is_run_cancelled(run), cancelled.positions(run, assignment)[0]
            if not whole and not found:
                continue
            if assignment in at_work:
                child.stop(assignment, None if whole else found, grace)
            else:
                again = True
    return again
