"""What is reported as a result is JSON, or counts as failed."""

from __future__ import annotations

import pytest

from dts.server.record.values import fail_what_is_not_json
from dts.wire import dts_pb2

GOOD = [
    b"",
    b"null",
    b'"a"',
    b"1",
    b"-1.5e300",
    b"[]",
    b'{"a": [1, {"b": null}]}',
    '"ü\U0001f600"'.encode(),
    b"[1,\n2]",
    b" 1\n",
]
BAD = [
    b'1, "state": "succeeded"',
    b'"x"}, {"y": "z"',
    b"[1",
    b"2]",
    b"1\n2",
    b"\n",
    b" ",
    b"NaN",
    b'"\xff"',
    b'"\xed\xa0\x80"',
    b"'a'",
    b"{1:2}",
    b"[" * 100_000 + b"]" * 100_000,
    b"\x00",
]


def batch_of(*values: bytes, partials: bytes = b"") -> dts_pb2.ResultBatch:
    batch = dts_pb2.ResultBatch(block="r-0", run="r", function="own/f", worker="w")
    for index, value in enumerate(values):
        batch.results.add(index=index, status=dts_pb2.SUCCEEDED, value=value, partials=partials)
    return batch


def test_json_is_left_as_it_is() -> None:
    batch = batch_of(*GOOD)
    before = batch.SerializeToString()
    assert fail_what_is_not_json(batch) == 0
    assert batch.SerializeToString() == before
    assert fail_what_is_not_json(batch_of()) == 0
    assert fail_what_is_not_json(batch_of(b"1", partials=b'[1, "a"]')) == 0


@pytest.mark.parametrize("bad", BAD, ids=[str(n) for n in range(len(BAD))])
def test_what_is_not_json_fails_alone(bad: bytes) -> None:
    batch = batch_of(b"1", bad, b'"two"')
    assert fail_what_is_not_json(batch) == 1
    assert [result.status for result in batch.results] == [dts_pb2.SUCCEEDED, dts_pb2.FAILED, dts_pb2.SUCCEEDED]
    assert (batch.results[1].value, batch.results[1].error.type) == (b"", "ResultNotJSON")


@pytest.mark.parametrize(
    "values", [(b"[1", b"2]"), (b'"a', b'b"'), (b"1\n2", b""), (b"[1", b"2]", b"1\n2"), (b"1\n", b"2")]
)
def test_values_that_are_json_together_only_fail(values: tuple[bytes, ...]) -> None:
    batch = batch_of(*values)
    good = {b"", b"1\n", b"2"}
    assert fail_what_is_not_json(batch) == sum(value not in good for value in values)


@pytest.mark.parametrize("partials", [b"1", b'"a"', b"[1", b"[1] [2]", b'["\xff"]'])
def test_partials_that_are_no_array_fail(partials: bytes) -> None:
    assert fail_what_is_not_json(batch_of(b"1", b"2", partials=partials)) == 2
