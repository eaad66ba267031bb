"""Whether an attempt that failed is worth another one, and when: exponential backoff with full jitter.

https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/
"""

from __future__ import annotations

import random
from typing import NamedTuple

from dts.config import WorkerSettings
from dts.errors import DtsError, ImportFailed
from dts.wire.dts_pb2 import Error, Job
from dts.worker.failure import describe, describe_ours
from dts.worker.raised import MAX_DELAY, Fail, Retry, SoftTimeout, TimedOut
from dts.worker.terms import Terms

REASON_TIMEOUT, REASON_MEMORY, REASON_DEADLINE = "timeout", "memory", "deadline"


class Failure(NamedTuple):
    """What is reported of an attempt that failed: with a `delay` it is tried again after so many seconds."""

    error: Error
    delay: float | None = None
    kills: int = 0


class Judge:
    """Decides what is reported of a failed attempt."""

    def __init__(self, settings: WorkerSettings) -> None:
        self._base, self._cap = settings.backoff_base, settings.backoff_cap
        self._retry_limit = settings.retry_limit

    def judge(self, error: BaseException, job: Job, terms: Terms) -> Failure:
        """An exception that ended an attempt."""
        told = tell(error, terms)
        if isinstance(error, Retry):
            attempts = terms.max_attempts or self._retry_limit
            if (job.attempt or 1) < attempts:
                delay = self.backoff(job) if error.delay is None else min(error.delay, MAX_DELAY)
                return Failure(told, delay, job.kills)
            told.message += f" (attempt {job.attempt or 1} of {attempts})"
            return Failure(told, None, job.kills)
        final = isinstance(error, Fail) or (isinstance(error, DtsError) and not isinstance(error, ImportFailed))
        if final:
            return Failure(told, None, job.kills)
        names = {told.type, "TimeoutError"} if isinstance(error, TimedOut) else {told.type}
        for kind in type(error).__mro__:
            names |= {kind.__name__, f"{kind.__module__}.{kind.__qualname__}"}
        return self.weigh(told, names, job, terms)

    def weigh(self, told: Error, names: set[str], job: Job, terms: Terms) -> Failure:
        """An attempt that ended by something with these names."""
        worth = not terms.retry_on or not names.isdisjoint(terms.retry_on)
        if worth and (job.attempt or 1) < (terms.max_attempts or 1):
            return Failure(told, self.backoff(job), job.kills)
        return Failure(told, None, job.kills)

    def backoff(self, job: Job) -> float:
        """Seconds until the next attempt: anything up to a bound that doubles with every attempt."""
        bound = self._base * 2.0 ** min((job.attempt or 1) - 1, 60)
        return random.uniform(0, min(bound, self._cap))


def tell(error: BaseException, terms: Terms) -> Error:
    """What the caller is told of an exception that ended an attempt."""
    if isinstance(error, DtsError):
        return describe_ours(error)
    told = describe(error)
    if isinstance(error, SoftTimeout):
        told.type, told.reason = "SoftTimeout", REASON_TIMEOUT
    elif isinstance(error, TimedOut):
        told.type, told.reason = "Timeout", REASON_TIMEOUT
    elif isinstance(error, (Retry, Fail)):
        told.type = type(error).__name__
    elif isinstance(error, MemoryError) and terms.memory_limit:
        told.type, told.reason = "MemoryLimit", REASON_MEMORY
        told.message = f"the function needed more than its memory limit of {terms.memory_limit} bytes"
    return told
