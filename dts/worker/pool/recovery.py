"""Decides what becomes of the jobs of a child that died.

    the child was killed for a job's time or memory   that attempt has failed; the retry policy decides
    one job may have caused the death                 it is retried; after `poison_after` deaths it has failed
    several jobs may have caused it                   each runs again by itself
    no job was at work, as during an import           the message runs again; after MAX_DEATHS all its jobs fail, or it
                                                      is a dead letter if no child could even read it
    a cancelled job did not stop                      it is gone
    the template died, and its children with it       the message runs again, up to MAX_DEATHS times

All other jobs of the message that have no result yet run again, together.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from dts.config import WorkerSettings
from dts.errors import DtsError
from dts.wire import codec
from dts.wire.dts_pb2 import FAILED, RETRY, Error, Job, JobBatch, ResultBatch
from dts.worker.attempt.failure import clip
from dts.worker.attempt.retry_policy import REASON_MEMORY, REASON_TIMEOUT, Failure, RetryPolicy
from dts.worker.attempt.terms import TermsOf, default_terms
from dts.worker.link.batches import slice_batch
from dts.worker.link.board import Phase
from dts.worker.link.frames import Frame
from dts.worker.pool.child_process import Assignment
from dts.worker.pool.crash import REASON_CANCELLED, REASON_LOST, Crash

logger = logging.getLogger(__name__)

MAX_DEATHS = 3
"""Children that may die of one message without being at a job."""
REASON_POISON = "poison"
"""The code in the error of a job that killed too many processes."""

_WHILE = {
    Phase.LOADING: "while it imported the function's module",
    Phase.RUNNING: "between two jobs",
}
_POISON_DELAY = 1.0  # seconds, at most, until a job that killed its process is tried again


@dataclass(slots=True)
class Recovery:
    """What to do: a part to publish with `results` in it, of which `failed` are ends; assignments to run, with `rerun`
    jobs in them; or a reason for the dead letter. `kills` is how many processes the job to blame has killed.
    """

    part: codec.Encoded | None = None
    results: int = 0
    failed: int = 0
    again: list[Assignment] = field(default_factory=list)
    dead: str = ""
    rerun: int = 0
    kills: int = 0

    def __str__(self) -> str:
        parts = []
        if self.failed:
            parts.append(f"{_jobs(self.failed)} failed")
        if later := self.results - self.failed:
            parts.append(f"{_jobs(later)} will be tried again")
        if self.kills:
            parts.append(f"which has killed {self.kills} process{'es' * (self.kills > 1)} so far")
        if self.rerun:
            parts.append(f"{_jobs(self.rerun)} without a result run{'s' * (self.rerun == 1)} again in a fresh child")
        return ", ".join(parts) or self.dead or "no job is lost by that"


class Recoverer:
    """Decides what becomes of the jobs of an assignment whose child died."""

    def __init__(self, worker: str, settings: WorkerSettings) -> None:
        self._worker = worker
        self._poison_after = settings.poison_after
        self._defaults = default_terms(settings)
        self._policy = RetryPolicy(settings)

    def recover(self, assignment: Assignment, crash: Crash) -> Recovery:
        """Decide what to publish, what to run again, and what to reject."""
        try:
            batch = codec.decode(JobBatch, assignment.body, assignment.content_encoding)
        except DtsError as error:
            return Recovery(dead=error.message)
        unsent = [position for position in crash.unsent if position < len(batch.jobs)]
        suspects = [position for position in crash.suspects if position < len(batch.jobs)]
        spared = [position for position in crash.alone if position < len(batch.jobs)]
        killed = crash.reason in (REASON_TIMEOUT, REASON_MEMORY)
        lost = crash.reason == REASON_LOST
        innocent = (crash.others or bool(spared)) and not suspects
        deaths = assignment.deaths + (lost or (not suspects and not innocent))
        if not suspects and not innocent and (killed or (deaths >= MAX_DEATHS and not lost)):
            if crash.phase not in _WHILE:
                return Recovery(dead=f"{deaths} processes died when they began with it; the last one {crash.said}")
            return self._fail_all(batch, unsent, crash, assignment.yielded)
        recovery, alone = Recovery(), []
        if crash.reason == REASON_CANCELLED:
            unsent = [position for position in unsent if position not in suspects]
        elif lost and deaths < MAX_DEATHS:
            pass  # it is not known which job, if any, has caused it
        elif crash.reason == REASON_TIMEOUT or (len(suspects) == 1 and not crash.others):
            recovery = self._blame(batch, suspects, crash, assignment.yielded)
            unsent = [position for position in unsent if position not in suspects]
            alone = spared
        else:
            alone = suspects
        groups = [[position] for position in alone]
        groups.append([position for position in unsent if position not in alone])
        for group in filter(None, groups):
            body, encoding = codec.encode(slice_batch(batch, group))
            again = Assignment(body, encoding, assignment.owner, deaths=deaths, number=assignment.number)
            again.function, again.version = assignment.function, assignment.version
            again.secrets = assignment.secrets
            again.alone = deaths > 0 or group[0] in alone
            recovery.again.append(again)
            recovery.rerun += len(group)
        return recovery

    def _blame(self, batch: JobBatch, culprits: Sequence[int], crash: Crash, yielded: Mapping[int, bytes]) -> Recovery:
        terms = TermsOf(batch, self._defaults)
        found = []
        for position in culprits:
            job = batch.jobs[position]
            if crash.reason in (REASON_TIMEOUT, REASON_MEMORY):
                found.append((job, self._over_limit(job, terms, crash, "")))
            else:
                found.append((job, self._killer(job, crash)))
        return self._report(batch, found, crash, yielded)

    def _over_limit(self, job: Job, terms: TermsOf, crash: Crash, when: str) -> Failure:
        """A job that the worker has killed for its time or memory."""
        its = terms.of(job)
        if crash.reason == REASON_TIMEOUT:
            kind, said = "Timeout", f"the process of the job {crash.said} of {its.timeout:g} s{when}"
        else:
            kind, said = "MemoryLimit", f"the process of the job {crash.said} of {its.memory_limit} bytes{when}"
        report = Error(type=kind, message=said, reason=crash.reason, traceback=_last_words(crash))
        counts_as = TimeoutError if kind == "Timeout" else MemoryError
        return self._policy.decide_by_kind(report, [counts_as], job, its)

    def _killer(self, job: Job, crash: Crash) -> Failure:
        """A job that has killed its process: tried again, until it is known to be poison."""
        kills = job.kills + 1
        said = f"the process of the job {crash.said}"
        report = Error(type="ProcessDied", message=said, reason=crash.reason, traceback=_last_words(crash))
        if kills < self._poison_after:
            return Failure(report, random.uniform(0, _POISON_DELAY), kills)
        report.reason = REASON_POISON
        report.message = f"{said}; the job has killed {kills} processes and is not tried again"
        return Failure(report, None, kills)

    def _fail_all(
        self, batch: JobBatch, positions: Sequence[int], crash: Crash, yielded: Mapping[int, bytes]
    ) -> Recovery:
        """A message of which processes die before they are at any job."""
        terms = TermsOf(batch, self._defaults)
        when = _WHILE[crash.phase]
        said = f"the process of the job {crash.said} {when}"
        dead = Failure(Error(type="ProcessDied", message=said, reason=crash.reason, traceback=_last_words(crash)))
        found = []
        for position in positions:
            job = batch.jobs[position]
            late = crash.reason == REASON_TIMEOUT
            found.append((job, self._over_limit(job, terms, crash, f" {when}") if late else dead))
        return self._report(batch, found, crash, yielded)

    def _report(
        self, batch: JobBatch, found: Sequence[tuple[Job, Failure]], crash: Crash, yielded: Mapping[int, bytes]
    ) -> Recovery:
        part = ResultBatch(
            block=batch.block, run=batch.run, function=batch.function, worker=self._worker, started=time.time()
        )
        part.version = crash.version
        failed, most = 0, 0
        durations = {batch.jobs[at].index: seconds for at, seconds in crash.durations.items() if at < len(batch.jobs)}
        for job, (error, delay, kills) in found:
            most = max(most, kills)
            again = delay is not None
            failed += not again
            part.results.add(
                index=job.index,
                status=RETRY if again else FAILED,
                error=error,
                attempt=job.attempt,
                delay=delay or 0.0,
                duration=durations.get(job.index, 0.0),
                kills=kills,
                fence=job.fence,
                partials=yielded.get(job.index, b""),
            )
        return Recovery(codec.encode(part) if found else None, len(found), failed, kills=most)


def _jobs(count: int) -> str:
    return f"{count} job{'s' * (count != 1)}"


def _last_words(crash: Crash) -> str:
    """The last lines that a process printed, as they are shown in place of a traceback."""
    whose = ", some of it perhaps of jobs before this one" if crash.mixed else ""
    return f"last output of the process{whose}:\n{clip(crash.tail, 4096)}" if crash.tail.strip() else ""


def note_progress(partials: dict[int, bytes], frame: Frame) -> None:
    """Keep what a RUNNING frame says that jobs have yielded, a JSON array by the job's index in its block.

    It goes into the job's record if its process dies before it can send that itself.
    """
    try:
        batch = codec.decode(ResultBatch, frame.body, frame.content_encoding)
    except DtsError as error:
        logger.warning("a child's report on jobs at work cannot be read, and is ignored: %s", error.message)
        return
    partials.update((each.index, each.partials) for each in batch.progress if each.partials)
