"""What a delivery knows of itself, and of what a child says that it is part of it."""

from __future__ import annotations

from typing import cast

import pytest

from dts.broker import Consumer, Delivery, Message
from dts.wire import codec
from dts.wire.dts_pb2 import JobBatch
from dts.worker.queues.in_flight import InFlight

HEADERS: dict[str, str | int] = {"block": "r-0", "run": "r", "function": "own/f", "count": 2}


def held() -> InFlight:
    return InFlight.of(Delivery(Message(b"", "", HEADERS), "q", 1), cast(Consumer, None))


def encoded(**changes: str) -> codec.Encoded:
    return codec.encode(JobBatch(**{"block": "r-0", "run": "r", "function": "own/f"} | changes))


def test_jobs_that_a_child_gives_back_are_of_the_delivery() -> None:
    assert held().is_part(*encoded())


@pytest.mark.parametrize("changes", [{"function": "others/f"}, {"block": "s-0"}, {"run": "s"}])
def test_jobs_of_others_are_no_part_of_it(changes: dict[str, str]) -> None:
    assert not held().is_part(*encoded(**changes))


@pytest.mark.parametrize(("body", "encoding"), [(b"\xff\xff", ""), (b"x", "deflate"), (b"", "br"), (b"", "")])
def test_what_is_no_batch_of_jobs_is_no_part_of_it(body: bytes, encoding: str) -> None:
    assert not held().is_part(body, encoding)
