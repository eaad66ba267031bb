"""What a queue file holds if the power fails right after a publish was confirmed."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path

import pytest

from dts.broker import Broker, open_broker
from tests.conformance.broker.helpers import bodies, numbered, take
from tests.services import power_cut


@pytest.fixture
def commits(monkeypatch: pytest.MonkeyPatch) -> power_cut.Commits:
    watched = power_cut.Commits("queue.db")
    monkeypatch.setattr(sqlite3, "connect", watched.connect)
    return watched


@pytest.fixture
async def broker(commits: power_cut.Commits, tmp_path: Path) -> AsyncIterator[Broker]:
    async with open_broker(f"sqlite:///{tmp_path}/queue.db") as started:
        yield started


async def test_a_publish_returns_when_it_is_on_the_disk(
    broker: Broker, commits: power_cut.Commits, tmp_path: Path, queue: str
) -> None:
    async with await broker.consume(queue, prefetch=10) as consumer:
        await broker.publish(queue, numbered(3))
        await broker.ping()
        commits.taken()
        await consumer.ack(await take(consumer, 3))  # not flushed: that may be undone
        await broker.ping()
        assert power_cut.FULL not in commits.taken()
    for number in range(3):
        await broker.ping()
        commits.taken()
        await asyncio.gather(*(broker.publish(queue, numbered(5, f"{number}-{each}")) for each in range(4)))
        levels = commits.taken()
        assert levels
        assert set(levels) == {power_cut.FULL}
        copy = power_cut.copy(tmp_path / "queue.db", tmp_path / f"copy-{number}")
        async with open_broker(f"sqlite:///{copy}") as other, await other.consume(queue, prefetch=100) as consumer:
            found = bodies(await take(consumer, 20 * (number + 1)))
        assert {f"{number}-{each}-{index}" for each in range(4) for index in range(5)} <= set(found)


@pytest.mark.parametrize("cut", [1, 24, 4096, 10_000])
async def test_a_log_that_is_cut_short_gives_what_was_confirmed_before(
    broker: Broker, tmp_path: Path, queue: str, cut: int
) -> None:
    """Whatever the disk did not get of the last transaction, those before it are whole."""
    await broker.publish(queue, numbered(4, "first"))
    await broker.publish(queue, numbered(4, "second"))
    confirmed = (tmp_path / "queue.db-wal").stat().st_size
    await broker.publish(queue, [message for each in range(50) for message in numbered(20, f"third-{each}")])
    assert (tmp_path / "queue.db-wal").stat().st_size - confirmed > cut
    copy = power_cut.copy(tmp_path / "queue.db", tmp_path / "copy", cut=cut)
    async with open_broker(f"sqlite:///{copy}") as other, await other.consume(queue, prefetch=2000) as consumer:
        found = bodies(await take(consumer, 8))
        assert found == [f"{name}-{number}" for name in ("first", "second") for number in range(4)]
        assert (await other.depth(queue)).ready == 0
    with closing(sqlite3.connect(copy)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
