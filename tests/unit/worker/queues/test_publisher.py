"""What a worker publishes while its broker is away, and what no broker can take."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import cast

import pytest

from dts.broker import Broker, Message
from dts.errors import BrokerUnavailable
from dts.worker.queues import publisher as module
from dts.worker.queues.publisher import Publisher


class FakeBroker:
    """Away for so many attempts; then it takes all messages but those with a text that it cannot carry."""

    def __init__(self, away: int = 0) -> None:
        self.away = away
        self.taken: list[bytes] = []

    async def publish(self, queue: str, messages: Sequence[Message]) -> None:
        if self.away:
            self.away -= 1
            raise BrokerUnavailable("its disk is full")
        for message in messages:
            str(message.headers.get("run", "")).encode()
        self.taken += [message.body for message in messages]


def message(number: int, run: str = "r") -> Message:
    return Message(b"%d" % number, "", {"run": run})


async def test_an_outage_is_logged_when_it_begins_and_when_it_is_over(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(module, "_FIRST_PAUSE", 0.0001)
    monkeypatch.setattr(module, "_LONGEST_PAUSE", 0.0001)
    broker, confirmed = FakeBroker(away=100), asyncio.Event()
    async with Publisher(cast("Broker", broker)) as publisher:
        publisher.put("q", message(1), confirmed.set, lambda error: None)
        await confirmed.wait()
    assert broker.taken == [b"1"]
    assert [record.levelno for record in caplog.records] == [logging.WARNING, logging.INFO]
    assert "its disk is full" in caplog.messages[0]
    assert "takes messages to q again" in caplog.messages[1]


async def test_a_message_that_no_broker_can_carry_is_given_up_alone() -> None:
    broker, confirmed = FakeBroker(), []
    refused: list[tuple[int, str]] = []
    async with Publisher(cast("Broker", broker)) as publisher:
        for number in range(5):
            run = "\ud800" if number == 2 else "r"

            def on_confirmed(number: int = number) -> None:
                confirmed.append(number)

            def on_refused(error: Exception, number: int = number) -> None:
                refused.append((number, type(error).__name__))

            publisher.put("q", message(number, run), on_confirmed, on_refused)
        await publisher.wait_idle()
        assert not publisher.failed.is_set()
    assert confirmed == [0, 1, 3, 4]
    assert refused == [(2, "UnicodeEncodeError")]
    assert broker.taken == [b"0", b"1", b"3", b"4"]
