"""What an attempt may take, when it is tried again, what was cancelled: the rules, without any process."""

from __future__ import annotations

import json
from decimal import Decimal

import pytest

from dts.config import WorkerSettings
from dts.errors import FunctionMissing, ImportFailed
from dts.wire import codec
from dts.wire.dts_pb2 import Job, JobBatch, Options
from dts.worker import Fail, Retry
from dts.worker.attempt.exceptions import TimedOut
from dts.worker.attempt.retry_policy import RetryPolicy
from dts.worker.attempt.terms import TermsOf, default_terms
from dts.worker.child.active_batch import ActiveBatch
from dts.worker.child.outbox import Outbox
from dts.worker.child.splitting import Splitter
from dts.worker.link.board import Board
from dts.worker.link.frames import Frame
from dts.worker.pool.child_process import Assignment
from dts.worker.queues.cancellations import Cancellations

DEFAULTS = default_terms(WorkerSettings(timeout=5, concurrency=7))


def make_batch(jobs: int, **options: object) -> JobBatch:
    batch = JobBatch(block="b", run="r", function="own/f")
    if options:
        batch.options.CopyFrom(Options(**options))  # type: ignore[arg-type]
    for index in range(jobs):
        batch.jobs.add(index=index)
    return batch


def test_a_job_asks_over_its_function_and_that_over_the_worker() -> None:
    batch = make_batch(2, soft_timeout=3, max_attempts=4)
    batch.jobs[1].options.soft_timeout = 0.5
    terms = TermsOf(batch, DEFAULTS)
    first, second = (terms.of(job) for job in batch.jobs)
    assert (first.soft_timeout, first.timeout, first.max_attempts, first.concurrency) == (3, 5, 4, 7)
    assert (second.soft_timeout, second.timeout, second.max_attempts) == (0.5, 5, 4)
    assert terms.strict


def test_jobs_without_limits_are_not_looked_at() -> None:
    assert not TermsOf(make_batch(3, max_attempts=3), default_terms(WorkerSettings())).strict
    assert not TermsOf(make_batch(3), default_terms(WorkerSettings())).strict


# attempts


@pytest.mark.parametrize(
    ("error", "attempt", "options", "again"),
    [
        (ValueError(), 0, {"max_attempts": 2}, True),
        (ValueError(), 1, {"max_attempts": 2}, True),
        (ValueError(), 2, {"max_attempts": 2}, False),
        (ValueError(), 1, {}, False),
        (ValueError(), 1, {"max_attempts": 2, "retry_on": ["builtins.ValueError"]}, True),
        (ValueError(), 1, {"max_attempts": 2, "retry_on": ["OSError"]}, False),
        (ConnectionResetError(), 1, {"max_attempts": 2, "retry_on": ["OSError"]}, True),
        (json.JSONDecodeError("x", "", 0), 1, {"max_attempts": 2, "retry_on": ["json.JSONDecodeError"]}, True),
        (json.JSONDecodeError("x", "", 0), 1, {"max_attempts": 2, "retry_on": ["json.decoder.JSONDecodeError"]}, True),
        (TimeoutError(), 1, {"max_attempts": 2, "retry_on": ["asyncio.TimeoutError"]}, True),
        (TimeoutError(), 1, {"max_attempts": 2, "retry_on": ["asyncio.CancelledError"]}, False),
        (ConnectionResetError(), 1, {"max_attempts": 2, "retry_on": ["socket.error"]}, True),
        (TimedOut(), 1, {"max_attempts": 2, "retry_on": ["Timeout"]}, True),
        (TimedOut(), 1, {"max_attempts": 2, "retry_on": ["asyncio.TimeoutError"]}, True),
        (ValueError(), 1, {"max_attempts": 2, "retry_on": ["no.such.Error", "json.nothing", ".", ""]}, False),
        (ExceptionGroup("", [KeyError(), OSError()]), 1, {"max_attempts": 2, "retry_on": ["OSError"]}, True),
        (ExceptionGroup("", [KeyError()]), 1, {"max_attempts": 2, "retry_on": ["OSError"]}, False),
        (ExceptionGroup("", [ExceptionGroup("", [OSError()])]), 1, {"max_attempts": 2, "retry_on": ["OSError"]}, True),
        (ExceptionGroup("", [OSError(), Fail("x")]), 1, {"max_attempts": 2, "retry_on": ["OSError"]}, False),
        (ExceptionGroup("", [ValueError(), Retry(delay=0)]), 1, {}, True),
        (ExceptionGroup("", [Fail("x"), Retry(delay=0)]), 1, {}, False),
        (SystemExit(1), 1, {"max_attempts": 2}, True),
        (Fail("x"), 1, {"max_attempts": 2}, False),
        (Retry(delay=0), 1, {}, True),
        (Retry(), 10, {}, False),
        (Retry(), 1, {"max_attempts": 1}, False),
        (FunctionMissing(), 1, {"max_attempts": 2}, False),
        (ImportFailed(), 1, {"max_attempts": 2}, True),
    ],
)
def test_which_attempts_are_worth_another(
    error: BaseException, attempt: int, options: dict[str, object], again: bool
) -> None:
    batch = make_batch(1, **options)
    terms = TermsOf(batch, default_terms(WorkerSettings()))
    failure = RetryPolicy(WorkerSettings()).decide(error, Job(attempt=attempt, kills=1), terms.common)
    assert (failure.delay is not None) == again
    assert failure.kills == 1
    if isinstance(error, Retry) and error.delay is not None:
        assert failure.delay == error.delay


def test_of_several_retries_in_a_group_the_longest_delay_counts() -> None:
    group = ExceptionGroup("", [Retry(delay=3), ExceptionGroup("", [Retry(delay=7), Retry()])])
    assert RetryPolicy(WorkerSettings()).decide(group, Job(attempt=1), default_terms(WorkerSettings())).delay == 7


def test_backoff_doubles_up_to_a_cap_and_has_full_jitter() -> None:
    policy = RetryPolicy(WorkerSettings(backoff_base=1, backoff_cap=100))
    for attempt, bound in ((0, 1), (1, 1), (2, 2), (5, 16), (60, 100), (2000, 100)):
        delays = [policy.backoff(Job(attempt=attempt)) for _ in range(300)]
        assert 0 <= min(delays) < 0.2 * bound
        assert 0.8 * bound < max(delays) <= bound


def test_a_delay_is_a_number_of_seconds() -> None:
    for wrong in (-1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="delay"):
            Retry(delay=wrong)


class OwnRetry(Retry):
    def __init__(self, **attributes: object) -> None:
        vars(self).update(attributes)


class Soon(Retry):
    delay = 0.125


@pytest.mark.parametrize(
    ("error", "delay"),
    [
        (Soon(), 0.125),
        (Soon(delay=1), 1.0),
        (OwnRetry(), None),
        (OwnRetry(delay=2), 2.0),
        (OwnRetry(delay=Decimal("0.5")), 0.5),
        (OwnRetry(delay=10**9), 30 * 86400),
        (OwnRetry(delay=-1), None),
        (OwnRetry(delay=float("nan")), None),
        (OwnRetry(delay="soon"), None),
    ],
)
def test_a_retry_of_ones_own_waits_as_long_as_it_says_if_that_can_be(error: Retry, delay: float | None) -> None:
    policy = RetryPolicy(WorkerSettings(backoff_base=0, backoff_cap=0))
    found = policy.decide(error, Job(attempt=1), default_terms(WorkerSettings())).delay
    assert found == (delay or 0.0), "without a delay it is the usual backoff"
    assert type(found) in (float, int)


# cancel


def test_tokens_name_runs_and_jobs_and_others_are_passed_over() -> None:
    cancelled = Cancellations()
    assert cancelled.learn("r1 r2-5 user:somebody function:a/b-7") == {"r1", "r2"}
    assert cancelled.learn("r1 r2-5 r2-6") == {"r2"}
    assert cancelled.is_run_cancelled("r1")
    assert not cancelled.is_run_cancelled("r2")
    assert cancelled.concerns("r2")


def test_cancelled_jobs_are_taken_out_of_a_message() -> None:
    cancelled = Cancellations()
    cancelled.learn("r-101 r-103")
    message = codec.encode(make_batch(4))
    left = cancelled.sift("r", Assignment(*message, owner=None, number=100))
    assert left is not None
    batch = codec.decode(JobBatch, left.body, left.content_encoding)
    assert [job.index for job in batch.jobs] == [0, 2]
    cancelled.learn("r-100 r-102")
    assert cancelled.sift("r", Assignment(*message, owner=None, number=100)) is None
    unknown = Assignment(*message, owner=None)
    assert cancelled.sift("r", unknown) is unknown, "whose numbers are not known"
    cancelled.learn("r")
    assert cancelled.sift("r", unknown) is None


# splitting


def split(jobs: int, begun: int, ended: int, after: float, *, lease: bool = False) -> list[int]:
    """Sizes of the messages that are given away `after` seconds."""
    board = Board.create()
    batch = make_batch(jobs)
    batch.lease = lease
    active = ActiveBatch(1, batch, DEFAULTS, board)
    sent: list[Frame] = []
    outbox = Outbox(active, "me", sent.append)
    for _ in range(begun):
        active.waiting.popleft()
    splitter = Splitter(active, outbox, 0.1, 0.05)
    outbox.ended.extend([None] * ended)
    if ended:
        splitter.look(active.began + after - 0.01)
    splitter.look(active.began + after)
    board.close()
    return [frame.jobs for frame in sent]


@pytest.mark.parametrize(
    ("jobs", "begun", "ended", "after", "given"),
    [
        (64, 1, 0, 0.05, []),  # too early to say
        (5, 1, 0, 0.12, [1, 1, 1, 1]),  # stuck at the first one, and nothing is known
        (1, 1, 0, 10.0, []),
        (5, 0, 0, 10.0, []),  # its module is being imported
        (64, 13, 12, 0.11, [5] * 9 + [1]),  # 9 ms each: five are kept
        (64, 51, 50, 0.11, []),  # not worth it
    ],
)
def test_what_is_given_away(jobs: int, begun: int, ended: int, after: float, given: list[int]) -> None:
    sizes = split(jobs, begun, ended, after)
    assert len(sizes) == len(given)
    assert all(abs(size - wanted) <= 3 for size, wanted in zip(sizes, given, strict=True))
    assert split(jobs, begun, ended, after, lease=True) == []
