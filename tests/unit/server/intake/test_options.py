"""What is asked of attempts: checked, put where it costs least, and merged with the function's record."""

from __future__ import annotations

import msgspec
import pytest

from dts.config import ServerSettings
from dts.errors import InvalidInput
from dts.model import DelayedSlice, Function, Run, new_id
from dts.server.intake.ingest import Arguments, batch_from_arguments, new_block
from dts.server.intake.options import (
    AttemptParams,
    merged_options,
    own_options,
    put_options,
)
from dts.server.publish.slices import Post, block_messages, delayed_messages
from dts.server.record.deadlines import deadline_of, earliest_deadline
from dts.wire import codec, dts_pb2

NOW = 1000.0


def batch_of(count: int) -> dts_pb2.JobBatch:
    return batch_from_arguments([Arguments(b"[1]", b"")] * count)


def decoded(post: Post) -> list[dts_pb2.JobBatch]:
    return [codec.decode(dts_pb2.JobBatch, each.body, each.content_encoding) for each in post.messages]


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"soft_timeout": 5, "timeout": 5}, "soft_timeout must be less"),
        ({"deadline": 999}, "over already"),
        ({"deadline": 1010, "not_before": 1010}, "not_before must be earlier"),
    ],
)
def test_what_does_not_go_together_is_refused(params: dict[str, float], message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        own_options(msgspec.convert(params, AttemptParams), now=NOW)


@pytest.mark.parametrize(
    "params",
    [
        {"timeout": 0},
        {"soft_timeout": -1},
        {"max_attempts": 0},
        {"max_attempts": 101},
        {"memory_limit": 1000},
        {"retry_on": [""]},
        {"concurrency": 0},
        {"tiemout": 1},
    ],
)
def test_values_out_of_range_are_refused(params: dict[str, object]) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(params, AttemptParams)


def test_a_job_that_asks_for_nothing_carries_nothing() -> None:
    assert own_options(AttemptParams(not_before=5.0), now=NOW) is None
    batch = batch_of(2)
    put_options(batch, [None, None])
    assert not batch.HasField("options")
    assert not batch.jobs[0].HasField("options")


def test_what_all_jobs_ask_for_is_written_once() -> None:
    same, other = dts_pb2.Options(timeout=5.0, deadline=20.0), dts_pb2.Options(deadline=10.0)
    batch = batch_of(2)
    put_options(batch, [same, same])
    assert batch.options == same
    assert not batch.jobs[1].HasField("options")
    batch = batch_of(3)
    put_options(batch, [same, None, other])
    assert [job.HasField("options") for job in batch.jobs] == [True, False, True]
    assert [deadline_of(job, batch) for job in batch.jobs] == [20.0, 0.0, 10.0]
    assert earliest_deadline(batch) == 10.0


def test_what_a_block_asks_for_goes_over_the_functions_record_but_lifts_no_limit() -> None:
    function = Function("a/b", timeout=10.0, soft_timeout=8.0, max_attempts=5, retry_on=("OSError",))
    own = dts_pb2.Options(timeout=99.0, max_attempts=3, memory_limit=2**30, retry_on=["ValueError", "KeyError"])
    merged = merged_options(function, own)
    assert merged == dts_pb2.Options(
        timeout=10.0, soft_timeout=8.0, max_attempts=3, memory_limit=2**30, retry_on=["ValueError", "KeyError"]
    )
    assert merged_options(function, dts_pb2.Options()).retry_on == ["OSError"]
    assert merged_options(None, own) == own


def messages_of(function: Function, count: int = 3, **settings: object) -> list[dts_pb2.JobBatch]:
    block = new_block(Run(new_id(), "ann", "a/b", 2048), 2, "a/b", batch_of(count))
    post = block_messages(block, batch_of(count), function, ServerSettings(**settings))  # type: ignore[arg-type]
    assert {message.headers["number"] for message in post.messages} == {4096}
    return decoded(post)


def test_jobs_that_may_take_long_go_singly_and_under_a_lease() -> None:
    fast = Function("a/b", mean_duration=0.0001)
    assert [(batch.lease, len(batch.jobs)) for batch in messages_of(fast)] == [(False, 3)]
    for long in (
        messages_of(Function("a/b", mean_duration=0.0001, timeout=1201.0)),
        messages_of(Function("a/b", mean_duration=301.0)),
        messages_of(fast, lease_unlimited=True),
    ):
        assert [(batch.lease, len(batch.jobs), batch.jobs[0].fence) for batch in long] == [(True, 1, 1)] * 3
    assert not messages_of(Function("a/b", mean_duration=301.0, timeout=600.0))[0].lease, "its timeout bounds it"


def test_the_next_attempt_is_of_the_jobs_that_waited() -> None:
    block = new_block(Run(new_id(), "ann", "a/b", 2048), 0, "a/b", batch_of(6))
    waiting = DelayedSlice(
        "s", block.id, block.run, "ann", "a/b", 0.0, 0b101010, attempt=4, kills={3: 2}, fences={5: 7}
    )
    post = delayed_messages(block, batch_of(6), waiting, None, ServerSettings())
    assert "first" not in post.messages[0].headers, "its jobs are not a range"
    [batch] = decoded(post)
    assert [(job.index, job.attempt, job.kills, job.fence) for job in batch.jobs] == [
        (1, 4, 0, 0),
        (3, 4, 2, 0),
        (5, 4, 0, 7),
    ]
