"""A bucket of requests: so many a second, and a second's worth at once."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dts.server.limits import Bucket


def test_a_bucket_holds_a_seconds_worth_and_fills_up_again() -> None:
    bucket = Bucket(2.0, now=100.0)
    assert [bucket.wait(100.0) for _ in range(2)] == [0.0, 0.0]
    assert bucket.wait(100.0) == pytest.approx(0.5)
    assert bucket.wait(100.5) == 0.0
    assert [bucket.wait(200.0) for _ in range(2)] == [0.0, 0.0], "never more than a second's worth, however long it was"
    assert bucket.wait(200.0) > 0


def test_a_slow_rate_lets_one_request_pass_at_a_time() -> None:
    bucket = Bucket(0.1, now=0.0)
    assert bucket.wait(0.0) == 0.0
    assert bucket.wait(5.0) == pytest.approx(5.0)
    assert bucket.wait(10.0) == 0.0


@given(rate=st.floats(0.1, 1000), pauses=st.lists(st.floats(0, 0.5), max_size=200))
def test_in_the_long_run_no_more_passes_than_the_rate_allows(rate: float, pauses: list[float]) -> None:
    bucket, now, passed = Bucket(rate, now=0.0), 0.0, 0
    for pause in pauses:
        now += pause
        passed += bucket.wait(now) == 0.0
    assert passed <= max(1.0, rate) + now * rate + 1e-6
