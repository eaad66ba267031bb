"""The terms on which a job is attempted: what it and its function ask for, over the worker's settings."""

from __future__ import annotations

from dataclasses import dataclass

from dts.config import WorkerSettings
from dts.wire.dts_pb2 import Job, JobBatch, Options
from dts.wire.options import merge


@dataclass(frozen=True, slots=True)
class Terms:
    """How one attempt is run. Times are in seconds, 0 stands for no limit; `max_attempts` 0 for not set by anybody."""

    soft_timeout: float
    timeout: float
    max_attempts: int
    retry_on: tuple[str, ...]
    memory_limit: int
    concurrency: int
    batch: int
    deadline: float
    recycle_after: int


def default_terms(settings: WorkerSettings) -> Terms:
    """What a worker's settings say. A `max_attempts` of 1 there is the default, and counts as not set."""
    return Terms(
        soft_timeout=settings.soft_timeout,
        timeout=settings.timeout,
        max_attempts=settings.max_attempts if settings.max_attempts > 1 else 0,
        retry_on=settings.retry_on,
        memory_limit=settings.memory_limit,
        concurrency=settings.concurrency,
        batch=settings.batch,
        deadline=0.0,
        recycle_after=settings.recycle_after,
    )


def _over(base: Terms, options: Options) -> Terms:
    """`base` with what `options` set laid over it."""

    def pick(name: str) -> float:
        value: float = getattr(options, name) if options.HasField(name) else getattr(base, name)
        return value

    return Terms(
        soft_timeout=pick("soft_timeout"),
        timeout=pick("timeout"),
        max_attempts=int(pick("max_attempts")),
        retry_on=tuple(options.retry_on) or base.retry_on,
        memory_limit=int(pick("memory_limit")),
        concurrency=max(int(pick("concurrency")), 1),
        batch=max(int(pick("batch")), 1),
        deadline=pick("deadline"),
        recycle_after=int(pick("recycle_after")),
    )


class TermsOf:
    """The terms of the jobs of one message.

    `common` holds for all that ask for nothing themselves. `strict` tells whether any job has a time limit or a
    deadline: when not, jobs are run without a look at their terms.
    """

    def __init__(self, batch: JobBatch, defaults: Terms) -> None:
        self._defaults, self._options = defaults, batch.options
        self.common = _over(defaults, batch.options) if batch.HasField("options") else defaults
        self._single = any([job.HasField("options") for job in batch.jobs])
        self.strict = self._single or bool(self.common.timeout or self.common.soft_timeout or self.common.deadline)

    def of(self, job: Job) -> Terms:
        """The terms of one job of the message."""
        if not (self._single and job.HasField("options")):
            return self.common
        return _over(self._defaults, merge(self._options, job.options))
