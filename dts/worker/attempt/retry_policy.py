"""Decides whether a failed attempt is followed by another one, and when: exponential backoff with full jitter.

    the attempt ended by               another attempt
    ---------------------------------  ---------------------------------------------------------------------------
    Fail                               never
    Retry                              after its delay, up to `max_attempts`; if that is not set, `retry_limit`
    an error that repeats itself       never: no such function, no `main`, a result that is not JSON or too large
    any other exception                up to `max_attempts`, if `retry_on` is empty or names it

Of an exception group each exception in it counts: one Fail ends the job, else one Retry or one that `retry_on` names is
enough for another attempt. The backoff is that of
https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeGuard

from dts.config import WorkerSettings
from dts.errors import DtsError, FunctionMissing, ImportFailed, InvalidName, MainMissing
from dts.wire.dts_pb2 import Error, Job
from dts.worker.attempt.exceptions import MAX_DELAY, Fail, Retry, SoftTimeout, TimedOut
from dts.worker.attempt.failure import clip, describe, describe_ours, unmasked
from dts.worker.attempt.introspection import is_a, name_of
from dts.worker.attempt.many import WrongResults
from dts.worker.attempt.matching import is_named, leaves_of
from dts.worker.attempt.result_json import ResultNotJSON, ResultTooLarge
from dts.worker.attempt.terms import Terms

_OURS = FunctionMissing, ImportFailed, InvalidName, MainMissing, ResultNotJSON, ResultTooLarge, WrongResults
"""Errors that the worker raises, not the function; all but ImportFailed are final."""

REASON_TIMEOUT, REASON_MEMORY, REASON_DEADLINE = "timeout", "memory", "deadline"


class Failure(NamedTuple):
    """The report of a failed attempt. With a `delay` the job is tried again after so many seconds."""

    error: Error
    delay: float | None = None
    kills: int = 0


class RetryPolicy:
    """Decides what is reported of a failed attempt, and whether there is another one. `mask` takes secrets out."""

    def __init__(self, settings: WorkerSettings, mask: Callable[[str], str] = unmasked) -> None:
        self._mask = mask
        self._base, self._cap = settings.backoff_base, settings.backoff_cap
        self._retry_limit = settings.retry_limit

    def decide(self, error: BaseException, job: Job, terms: Terms) -> Failure:
        """The failure of an attempt that ended by an exception."""
        report, leaves = report_of(error, terms, self._mask), leaves_of(error)
        if any(is_a(each, Fail) or _is_final(each) for each in leaves):
            return Failure(report, None, job.kills)
        if asking := [each for each in leaves if is_a(each, Retry)]:
            return self._decide_retry(report, asking, job, terms)
        return self.decide_by_kind(report, [kind for each in leaves for kind in _kinds_of(each)], job, terms)

    def decide_by_kind(self, report: Error, kinds: Sequence[type], job: Job, terms: Terms) -> Failure:
        """The failure of an attempt that ended by something of the reported type, or of any of these classes."""
        names = terms.retry_on
        is_worth_it = not names or report.type in names or any(is_named(kind, names) for kind in kinds)
        if is_worth_it and (job.attempt or 1) < (terms.max_attempts or 1):
            return Failure(report, self.backoff(job), job.kills)
        return Failure(report, None, job.kills)

    def _decide_retry(self, report: Error, asking: Sequence[BaseException], job: Job, terms: Terms) -> Failure:
        attempt, most = job.attempt or 1, terms.max_attempts or self._retry_limit
        if attempt >= most:
            report.message += f" (attempt {attempt} of {most})"
            return Failure(report, None, job.kills)
        delays = [delay for each in asking if (delay := _delay_of(each)) is not None]
        return Failure(report, max(delays) if delays else self.backoff(job), job.kills)

    def backoff(self, job: Job) -> float:
        """Seconds until the next attempt: random, up to a bound that doubles with every attempt."""
        bound = self._base * 2.0 ** min((job.attempt or 1) - 1, 60)  # more would overflow, and the cap is below
        return random.uniform(0, min(bound, self._cap))


def report_of(error: BaseException, terms: Terms, mask: Callable[[str], str]) -> Error:
    """The error that the caller gets for an exception that ended an attempt."""
    if _is_ours(error):
        return describe_ours(error, mask)
    report = describe(error, mask)
    if is_a(error, SoftTimeout):
        report.type, report.reason = "SoftTimeout", REASON_TIMEOUT
    elif is_a(error, TimedOut):
        report.type, report.reason = "Timeout", REASON_TIMEOUT
    elif is_a(error, Retry, Fail):
        report.type = clip(name_of(type(error)), 256)
    elif is_a(error, MemoryError) and terms.memory_limit:
        report.type, report.reason = "MemoryLimit", REASON_MEMORY
        report.message = f"the function needed more than its memory limit of {terms.memory_limit} bytes"
    return report


def _kinds_of(error: BaseException) -> tuple[type, ...]:
    """The classes that an exception counts as for `retry_on`: a timeout of DTS also as TimeoutError."""
    return (type(error), TimeoutError) if is_a(error, TimedOut) else (type(error),)


def _is_ours(error: BaseException) -> TypeGuard[DtsError]:
    """Whether the worker itself raised it; a function may raise a subclass of these, which is the function's own."""
    return any(type(error) is kind for kind in _OURS)


def _is_final(error: BaseException) -> bool:
    """Whether the worker raised it for what would be the same at the next attempt."""
    return _is_ours(error) and not is_a(error, ImportFailed)


def _delay_of(error: BaseException) -> float | None:
    """The delay in seconds that a Retry asks for; None for the usual backoff, also if its delay is no valid one."""
    try:
        delay = float(getattr(error, "delay", None))  # type: ignore[arg-type]
    except BaseException:  # noqa: BLE001 - a subclass may compute it, or hold anything there
        return None
    return min(delay, MAX_DELAY) if delay >= 0 else None
