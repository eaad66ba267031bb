"""Whether an attempt that failed is worth another one, and when: exponential backoff with full jitter.

https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/
"""

from __future__ import annotations

import random
from typing import NamedTuple, TypeGuard

from dts.config import WorkerSettings
from dts.errors import DtsError, FunctionMissing, ImportFailed, InvalidName, MainMissing, ProcessChanged
from dts.wire.dts_pb2 import Error, Job
from dts.worker.attempt.exceptions import MAX_DELAY, Fail, Retry, SoftTimeout, TimedOut
from dts.worker.attempt.failure import clip, describe, describe_ours
from dts.worker.attempt.introspection import is_a, name_of, names_of
from dts.worker.attempt.result_json import ResultNotJSON, ResultTooLarge
from dts.worker.attempt.terms import Terms

_OURS = FunctionMissing, ImportFailed, InvalidName, MainMissing, ProcessChanged, ResultNotJSON, ResultTooLarge
"""Types of the errors by which the worker itself ends a job."""

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
        if is_a(error, Retry):
            attempts = terms.max_attempts or self._retry_limit
            if (job.attempt or 1) < attempts:
                delay = _delay_of(error)
                return Failure(told, self.backoff(job) if delay is None else delay, job.kills)
            told.message += f" (attempt {job.attempt or 1} of {attempts})"
            return Failure(told, None, job.kills)
        if is_a(error, Fail) or (_is_ours(error) and not is_a(error, ImportFailed)):
            return Failure(told, None, job.kills)
        names = {told.type, "TimeoutError"} if is_a(error, TimedOut) else {told.type}
        return self.weigh(told, names | names_of(type(error)), job, terms)

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
    if _is_ours(error):
        return describe_ours(error)
    told = describe(error)
    if is_a(error, SoftTimeout):
        told.type, told.reason = "SoftTimeout", REASON_TIMEOUT
    elif is_a(error, TimedOut):
        told.type, told.reason = "Timeout", REASON_TIMEOUT
    elif is_a(error, Retry, Fail):
        told.type = clip(name_of(type(error)), 256)
    elif is_a(error, MemoryError) and terms.memory_limit:
        told.type, told.reason = "MemoryLimit", REASON_MEMORY
        told.message = f"the function needed more than its memory limit of {terms.memory_limit} bytes"
    return told


def _is_ours(error: BaseException) -> TypeGuard[DtsError]:
    """Whether the worker itself makes such errors; a function may raise what derives from them."""
    return any(type(error) is kind for kind in _OURS)


def _delay_of(error: BaseException) -> float | None:
    """Seconds that a Retry asks for; None for the usual backoff, also where it asks for what cannot be a delay."""
    try:
        delay = float(getattr(error, "delay", None))  # type: ignore[arg-type]
    except BaseException:  # noqa: BLE001 - a function may have put anything there
        return None
    return min(delay, MAX_DELAY) if delay >= 0 else None
