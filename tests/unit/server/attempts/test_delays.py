"""How results that ask for another attempt become slices."""

from __future__ import annotations

import pytest

from dts.model import Outcome, bitmap
from dts.server.attempts.delays import delayed_slices
from dts.wire import codec, dts_pb2

OUTCOME = Outcome("r-0", "r", 0, "ann", "a/b", 256)


def retries(delays: dict[int, float], **fields: object) -> dts_pb2.ResultBatch:
    batch = dts_pb2.ResultBatch(block="r-0", run="r", function="a/b", worker="w")
    for index, delay in delays.items():
        error = dts_pb2.Error(type="OSError", message="x" * 5000, traceback="t" * 3000)
        batch.results.add(index=index, status=dts_pb2.RETRY, delay=delay, error=error, **fields)  # type: ignore[arg-type]
    return batch


@pytest.mark.parametrize("delay", [0.0, 0.002, 0.1, 1.0, 7.3, 60.0, 599.0, 86400.0, 1e300])
def test_a_slice_is_due_after_its_delay_and_not_much_later(delay: float) -> None:
    [one] = delayed_slices(batch := retries({3: delay}), batch.results, b"d", OUTCOME, 1000.0)
    waited = one.due - 1000.0
    assert min(delay, 3.1e8) <= waited + 1e-6
    assert waited <= max(delay * 1.2, 0.002)
    assert (one.jobs, one.attempt, one.user) == (1 << 3, 2, "ann")


def test_jobs_of_about_the_same_delay_share_a_slice() -> None:
    delays = {index: 30 + index / 10 for index in range(256)}
    slices = delayed_slices(batch := retries(delays), batch.results, b"d", OUTCOME, 0.0)
    assert len(slices) <= 5
    assert sum(each.jobs for each in slices) == bitmap.full(256)
    assert len({each.id for each in slices}) == len(slices)


def test_the_same_message_makes_the_same_slices_and_another_one_others() -> None:
    batch = retries({1: 1.0, 2: 50.0}, attempt=2, kills=1, fence=3)
    one, same, other = (delayed_slices(batch, batch.results, digest, OUTCOME, 5.0) for digest in (b"a", b"a", b"b"))
    assert one == same
    assert {each.id for each in one}.isdisjoint(each.id for each in other)
    assert [(each.attempt, each.kills, each.fences) for each in one] == [(3, {1: 1}, {1: 4}), (3, {2: 1}, {2: 4})]


def test_what_has_ended_is_not_delayed_and_errors_stay_small() -> None:
    ended = Outcome("r-0", "r", 0, "ann", "a/b", 256, ended=0b10)
    [one] = delayed_slices(batch := retries({1: 1.0, 2: 1.0}), batch.results, b"d", ended, 0.0)
    assert one.jobs == 0b100
    [one] = delayed_slices(batch := retries(dict.fromkeys(range(256), 1.0)), batch.results, b"d", OUTCOME, 0.0)
    errors = codec.decode(dts_pb2.ResultBatch, one.body, one.content_encoding)
    assert len(errors.results) == 256
    assert errors.ByteSize() < 256 * 1024
