"""How hosts were, and what became of functions' attempts: over time, by any number of processes, bounded."""

from __future__ import annotations

import asyncio
import random
import statistics
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from dts.config import Settings
from dts.model import WorkerState
from dts.server.history import functions, hosts
from dts.server.history.functions import FunctionHistory, class_of, function_history, percentile, recent_traffic
from dts.server.history.hosts import RESOLUTIONS, HostHistory, host_history, resolution_for
from dts.store import Store, open_store
from tests.integration.conftest import Site

RAW, MINUTE, HOUR = RESOLUTIONS
NOON = 1_800_000_000.0 // 86400 * 86400 + 43200


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    async with open_store(f"sqlite:///{tmp_path}/store.db") as store:
        yield store


@pytest.fixture
def settings(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.setattr("dts.server.daemons.porter._HISTORY_INTERVAL", 0.05)
    return settings


def state(time: float, host: str = "a", **figures: float) -> WorkerState:
    return WorkerState(f"{host}-1", host, time, **figures)  # type: ignore[arg-type]


async def test_a_host_is_known_by_seconds_minutes_and_hours_whoever_heard_it(store: Store) -> None:
    one, other = HostHistory(store), HostHistory(store)
    for second in range(0, 7200, 5):
        history = one if second % 10 else other
        history.note([state(NOON + second, cpu=10.0 if second < 3600 else 50.0), state(NOON + second, "b", cpu=1.0)])
        if second % 2400 == 0:
            await one.flush()
            await other.flush()
    one.note([state(NOON + 7199, cpu=90.0)])
    await one.flush()
    await other.flush()
    raw = await host_history(store, "a", RAW, since=NOON + 6600, until=NOON + 7200)
    assert [row.time for row in raw] == [NOON + second for second in range(6600, 7200, 5)]
    assert raw[-1].count == 2
    minutes = await host_history(store, "a", MINUTE, since=NOON + 60, until=NOON + 7200)
    assert [row.time for row in minutes] == [NOON + second for second in range(60, 7200, 60)]
    assert (minutes[0].count, minutes[0].mean["cpu"], minutes[0].max["cpu"]) == (12, 10.0, 10.0)
    assert (minutes[-1].count, minutes[-1].max["cpu"]) == (13, 90.0)
    [first, second_hour] = await host_history(store, "a", HOUR, since=NOON, until=NOON + 7200)
    assert (first.count, first.mean["cpu"]) == (720, 10.0)
    assert second_hour.mean["cpu"] == pytest.approx(50.05, abs=0.1)
    assert await host_history(store, "c", RAW, since=NOON, until=NOON + 7200) == []


async def test_what_is_kept_is_bounded_by_time(store: Store) -> None:
    """All that expires before a time is gone then: what is left of a year is its hours, of a week its minutes."""
    history = HostHistory(store)
    for hour in range(24 * 10):
        for minute in (0, 30):
            history.note([state(NOON + 3600 * hour + 60 * minute, cpu=1.0)])
        if hour % 24 == 23:
            await history.flush()
    now = NOON + 3600 * 24 * 10
    documents = await store.list_documents(hosts.COLLECTION, limit=10_000)
    alive = [document for document in documents if document.expires is not None and document.expires > now]
    by_level = {level.name: [each for each in alive if each.group == f"a/{level.name}"] for level in RESOLUTIONS}
    assert {name: len(found) for name, found in by_level.items()} == {"raw": 12, "minute": 168, "hour": 11}
    assert all(document.expires is not None for document in documents)


async def test_a_store_that_was_away_gets_what_was_noted_meanwhile(store: Store) -> None:
    history = HostHistory(store)
    for second in range(0, 1200, 5):
        history.note([state(NOON + second)])
    await store.close()
    with pytest.raises(Exception, match=r"."):
        await history.flush()
    await store.start()
    await history.flush()
    assert len(await host_history(store, "a", RAW, since=NOON, until=NOON + 1200)) == 240


def test_the_finest_resolution_is_chosen_that_was_kept_and_is_short_enough() -> None:
    now = NOON
    assert resolution_for(now - 3600, now, now) is RAW
    assert resolution_for(now - 5 * 3600, now, now) is MINUTE
    assert resolution_for(now - 86400, now, now) is MINUTE
    assert resolution_for(now - 6 * 86400, now, now) is HOUR
    assert resolution_for(now - 30 * 86400, now - 30 * 86400 + 60, now) is HOUR


async def test_attempts_are_counted_by_the_minute_over_all_porters(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = NOON
    monkeypatch.setattr(store, "now", lambda: now)
    one, other = FunctionHistory(store), FunctionHistory(store)
    for minute in range(90):
        now = NOON + 60 * minute
        one.note("a/b", [0.1] * 256, 6, 0.5)
        other.note("a/b", [0.2, 0.2], 0, None)
        other.note("a/c", [1.0], 1, 7.0)
        if minute % 30 == 29:
            await one.flush()
            await other.flush()
    rows = await function_history(store, "a/b", since=NOON, until=now)
    assert len(rows) == 90
    assert (rows[0].time, rows[0].count, rows[0].failed, rows[0].wait) == (NOON, 258, 6, 0.5)
    assert rows[0].p50 == pytest.approx(0.1, rel=0.13)
    [whole, rest] = await function_history(store, "a/b", since=NOON, until=now, step=3600)
    assert (whole.count, rest.count) == (258 * 60, 258 * 30)
    assert await recent_traffic(store, seconds=240) == {"a/b": (5 * 258, 30, 0.5), "a/c": (5, 5, 7.0)}
    now += 3600 * 3
    assert await recent_traffic(store, seconds=240) == {}
    documents = await store.list_documents(functions.COLLECTION)
    assert all(document.expires is not None for document in documents)


def test_percentiles_are_right_to_an_eighth() -> None:
    chance = random.Random(7)
    durations = sorted(chance.lognormvariate(0, 3) for _ in range(10_000))
    classes: dict[int, float] = {}
    for duration in durations:
        classes[class_of(duration)] = classes.get(class_of(duration), 0) + 1
    assert percentile(classes, 0.5) == pytest.approx(statistics.median(durations), rel=0.13)
    assert percentile(classes, 0.95) == pytest.approx(durations[9500], rel=0.13)
    assert percentile({}, 0.5) is None
    assert [class_of(each) for each in (0.0, -1.0, float("nan"), 1e-9)] == [0] * 4
    assert class_of(float("inf")) == class_of(1e300) == 140


async def test_history_is_answered_to_operators(site: Site) -> None:
    api = site.api()
    await api.call("POST", "/jobs/", [{"function": "text/upper"}] * 3, status=201)
    for batch in await site.take_messages(3):
        await site.finish(batch, fail=(1,))
    history = HostHistory(site.store)
    history.note([state(site.store.now(), "host.example", cpu=12.5, memory=40.0)])
    await history.flush()
    found = await api.call("GET", "/admin/hosts/host.example/history")
    assert (found["host"], found["resolution"]) == ("host.example", "raw")
    assert found["rows"][0]["mean"]["cpu"] == 12.5
    async with asyncio.timeout(60):
        while not (rows := (await api.call("GET", "/admin/statistics/?function=text/upper"))["rows"]):
            await asyncio.sleep(0.05)
    assert sum(row["count"] for row in rows) == 3
    assert sum(row["failed"] for row in rows) == 1
    await api.refused("GET", "/admin/hosts/a/history?since=9&until=5", status=400, code="argument_invalid")
    bob = await site.add_user("bob")
    await bob.refused("GET", "/admin/statistics/?function=text/upper", status=403, code="forbidden")
