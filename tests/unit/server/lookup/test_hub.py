"""Requests that wait for results: woken by events and, when one is lost, by one sweep that they share."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from dts.broker import Broker, open_broker
from dts.errors import StoreUnavailable
from dts.model import Run
from dts.server.lookup import hub as hub_module
from dts.server.lookup.catalogue import Catalogue
from dts.server.lookup.hub import Hub
from dts.store.sqlite.store import SqliteStore
from dts.wire.queues import TOPIC_RESULTS
from tests.conformance.store.builders import make_block, make_run, succeeded
from tests.services.waiting import within


class CountingStore(SqliteStore):
    """Notes what the hub asks, and may be away."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.asked: list[list[str]] = []
        self.is_away = False
        self.was_asked = asyncio.Event()

    async def uncollected_counts(self, run_ids: Sequence[str]) -> dict[str, int]:
        self.asked.append(list(run_ids))
        self.was_asked.set()
        if self.is_away:
            raise StoreUnavailable("the store is away")
        return await super().uncollected_counts(run_ids)

    async def next_look(self) -> list[str]:
        """The runs in the hub's next look."""
        self.was_asked.clear()
        await self.was_asked.wait()
        return self.asked[-1]


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[CountingStore]:
    async with CountingStore(f"sqlite:///{tmp_path}/store.db") as store:
        yield store


@pytest.fixture
async def broker(tmp_path: Path) -> AsyncIterator[Broker]:
    async with open_broker(f"sqlite:///{tmp_path}/queue.db") as broker:
        yield broker


@pytest.fixture
async def hub(store: CountingStore, broker: Broker, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Hub]:
    monkeypatch.setattr(hub_module, "SWEEP_SECONDS", 0.01)
    monkeypatch.setattr(hub_module, "SWEEP_RUNS", 10)
    async with Hub(broker, Catalogue(store), store) as hub:
        yield hub


async def end_a_job(store: SqliteStore, run: Run) -> None:
    """Record a result, and let nobody know."""
    await store.add_blocks([make_block(run)], run=run)
    await store.record([succeeded(make_block(run), [0])])


async def test_an_event_wakes_those_who_wait_for_its_run_and_no_others(hub: Hub, broker: Broker) -> None:
    ours, other = make_run(), make_run()
    async with hub.waiter(ours.id) as news, hub.waiter(ours.id) as also, hub.waiter(other.id) as silent:
        await broker.broadcast(TOPIC_RESULTS, f"{ours.id} {make_run().id}")
        async with within():
            await news.wait()
            await also.wait()
        assert not silent.is_set()


async def test_a_result_whose_event_was_lost_wakes_once(hub: Hub, store: CountingStore) -> None:
    run, silent_run = make_run(), make_run()
    async with hub.waiter(run.id) as news, hub.waiter(silent_run.id) as silent, within():
        await store.next_look()
        assert not news.is_set()
        await end_a_job(store, run)
        await news.wait()
        news.clear()
        for _ in range(3):
            await store.next_look()
        assert not news.is_set()
        assert not silent.is_set()
        await store.record([succeeded(make_block(run), [1])])
        await news.wait()


async def test_the_sweep_costs_the_same_however_many_wait_and_reaches_all(hub: Hub, store: CountingStore) -> None:
    runs = [make_run() for _ in range(25)]
    async with AsyncExitStack() as stack, within():
        events = [await stack.enter_async_context(hub.waiter(run.id)) for run in runs for _ in range(3)]
        looks = [await store.next_look() for _ in range(6)]
        assert max(map(len, looks)) == 10
        assert {run for look in looks[:4] for run in look} == {run.id for run in runs}
        await end_a_job(store, runs[-1])
        await events[-1].wait()
        assert [event.is_set() for event in events] == [False] * 72 + [True] * 3


async def test_nobody_is_asked_while_nobody_waits(hub: Hub, store: CountingStore) -> None:
    async with hub.waiter(make_run().id), within():
        await store.next_look()
    asked = len(store.asked)
    for _ in range(20):  # turns of the loop in which the sweep finds that there is nothing to do
        await asyncio.sleep(0.005)
    assert len(store.asked) <= asked + 1


async def test_a_store_that_is_away_ends_no_sweep(hub: Hub, store: CountingStore) -> None:
    run = make_run()
    async with hub.waiter(run.id) as news, within():
        store.is_away = True
        await end_a_job(store, run)
        await store.next_look()
        await store.next_look()
        assert not news.is_set()
        assert not hub.failed.is_set()
        store.is_away = False
        await news.wait()
