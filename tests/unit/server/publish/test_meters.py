"""Rates, and limits by a key in the arguments."""

from __future__ import annotations

from collections import Counter

import pytest
from cachetools import LRUCache

from dts.model import Limits
from dts.server.publish.buckets import TokenBucket
from dts.server.publish.keys import KeyRooms, key_of
from dts.wire import dts_pb2


@pytest.mark.parametrize("rate", [0.1, 1.0, 7.0, 250.0])
def test_no_more_begin_than_the_rate_says_however_often_it_is_looked_at(rate: float) -> None:
    for step in (0.0007, 0.1, 3.0):
        bucket, now, begun = TokenBucket(rate, filled=0.0), 0.0, 0
        while now < 200:
            count = bucket.available(now)
            bucket.take(count)
            begun += count
            now += step
        assert begun <= rate * 200 + max(1.0, rate), "what it held at first is on top"
        if step * rate <= 0.1:  # later looks find a full bucket, and what it did not hold is lost
            assert begun >= rate * (200 - step) - 1


def test_a_bucket_holds_a_seconds_worth_and_says_when_there_is_a_token() -> None:
    bucket = TokenBucket(4.0, filled=0.0)
    assert bucket.available(1000.0) == 4
    bucket.take(4)
    assert bucket.available(1000.0) == 0
    assert bucket.wait == pytest.approx(0.25)
    assert bucket.available(1000.0 + bucket.wait) == 1
    slow = TokenBucket(0.01, filled=0.0)
    slow.take(1)
    assert slow.available(50.0) == 0
    assert slow.wait == pytest.approx(50.0)


@pytest.mark.parametrize(
    ("path", "key"),
    [
        ("kwargs.customer", b'"acme"'),
        ("kwargs.order.country", b'"jp"'),
        ("kwargs.order.lines.1", b"2"),
        ("args.0", b"7"),
        ("args.1", b'{"a":1,"b":2}'),
        ("args.2", b""),
        ("kwargs.none", b""),
        ("kwargs.customer.name", b""),
        ("args.x", b""),
    ],
)
def test_where_a_key_is(path: str, key: bytes) -> None:
    job = dts_pb2.Job(
        args=b'[7, {"b": 2, "a": 1}]', kwargs=b'{"customer": "acme", "order": {"country": "jp", "lines": [1, 2]}}'
    )
    assert key_of(job, path) == key
    assert key_of(dts_pb2.Job(), path) == b""


def test_each_key_has_room_of_its_own_and_what_has_none_is_free() -> None:
    limits = Limits(key="args.0", key_running=2)
    rooms = KeyRooms("crm/call", limits, Counter({b"1": 1, b"3": 2}), LRUCache(100))
    keys = [b"1", b"1", b"2", b"2", b"2", b"3", b"", b""]
    assert rooms.choose(keys, 0b1111_1111, 100) == 0b1100_1101
    assert rooms.choose(keys, 0b0011_0010, 100) == 0, "they have taken the room"
    assert rooms.choose(keys, 0b1100_0000, 1) == 0b0100_0000, "no more than asked for"
    assert rooms.choose([], 0b1, 100) == 0, "a block that is gone"


def test_each_key_has_a_rate_of_its_own() -> None:
    limits = Limits(key="args.0", key_starts_per_second=0.001)
    buckets: LRUCache[tuple[str, bytes], TokenBucket] = LRUCache(100)
    rooms = KeyRooms("crm/call", limits, Counter(), buckets)
    assert rooms.choose([b"1", b"1", b"2"], 0b111, 100) == 0b101
    assert 900 < rooms.wait <= 1000
    again = KeyRooms("crm/call", limits, Counter(), buckets)
    assert again.choose([b"1", b"2", b"3"], 0b111, 100) == 0b100, "what has begun counts for the next look, too"
