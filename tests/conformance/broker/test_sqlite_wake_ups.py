"""No message waits for longer than two looks, whoever dies between writing it and waking its consumers."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from dts.broker import Broker, open_broker
from dts.broker.sqlite.pipe import ProcessPipe
from tests.conformance.broker.helpers import bodies, depth_becomes, messages, take
from tests.conformance.broker.peer import Peer
from tests.services.kill_points import POINTS
from tests.services.waiting import within

StartPeer = Callable[..., Awaitable[Peer]]

NOTHING_WRITTEN = {"in-transaction", "with-a-claim", "while-opening", "while-making-its-pipe"}


@pytest.fixture
def url(tmp_path: Path) -> str:
    """A queue file, which processes that live have a lease of a minute on."""
    return f"sqlite:///{tmp_path}/queue.db?lease=60"


@pytest.fixture
async def broker(url: str) -> AsyncIterator[Broker]:
    """The process that lives."""
    async with open_broker(url) as started:
        yield started


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> list[None]:
    """Grows by one each time that the process that lives looks for what no hint came for, every half second."""
    found: list[None] = []
    restore = ProcessPipe.restore

    def count(pipe: ProcessPipe) -> None:
        found.append(None)
        restore(pipe)

    monkeypatch.setattr(ProcessPipe, "restore", count)
    return found


@pytest.mark.parametrize("point", POINTS)
async def test_what_a_dying_process_published_is_taken_soon(
    url: str, broker: Broker, queue: str, start_peer: StartPeer, looks: list[None], point: str
) -> None:
    async with await broker.consume(queue, prefetch=1) as consumer:
        peer = await start_peer(url, "die-at", point, "offer", queue)
        assert await peer.lines() == []
        if point in NOTHING_WRITTEN:
            await broker.publish(queue, messages("offered"))
        looks.clear()
        assert bodies(await take(consumer, 1)) == ["offered"]
        assert len(looks) <= 2


async def test_what_a_process_was_making_when_it_died_is_removed(
    tmp_path: Path, url: str, broker: Broker, queue: str, start_peer: StartPeer
) -> None:
    peer = await start_peer(url, "die-at", "while-making-its-pipe", "offer", queue)
    assert await peer.lines() == []
    wake = tmp_path / "queue.db.wake"
    async with await broker.consume(queue, prefetch=1), within():
        while len(os.listdir(wake)) > 2:  # the pipe and the lock of this process
            await asyncio.sleep(0.02)


@pytest.mark.parametrize("point", POINTS)
async def test_what_a_dying_process_had_or_gave_back_is_taken_soon(
    url: str, broker: Broker, queue: str, start_peer: StartPeer, looks: list[None], point: str
) -> None:
    await broker.publish(queue, messages("first"))
    peer = await start_peer(url, "die-at", point, "give-back", queue)
    taken = await peer.line() == "taken"
    async with await broker.consume(queue, prefetch=1) as consumer:
        if taken:
            peer.tell()
        assert await peer.lines() == []
        looks.clear()
        delivered = await take(consumer, 1)
        assert bodies(delivered) == ["first"]
        assert len(looks) <= 3, "one to find it dead, one to find what it had"
        await consumer.ack(delivered)
        await depth_becomes(broker, queue, 0)
