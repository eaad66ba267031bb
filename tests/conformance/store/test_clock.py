"""A clock that is set: what counts from when it was noted neither waits for hours nor is over at once."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from pathlib import Path

import pytest

from dts.model import DelayedSlice, Lease, WorkerState, new_id
from dts.store import Store, open_store
from dts.store.mongo import connection as mongo_connection
from tests.conformance.store.builders import make_block, make_run
from tests.services.mongodb import MongoServer
from tests.services.waiting import within


@pytest.fixture
def url(tmp_path: Path) -> str:
    """Where the store is."""
    return f"sqlite:///{tmp_path}/store.db"


def set_clock(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    """Set the clock that can be set; the one that counts from the start of the machine goes on."""
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + seconds)


async def test_the_stores_clock_goes_as_ours_does(store: Store) -> None:
    earliest, first, latest = time.monotonic(), store.now(), time.monotonic()
    await asyncio.sleep(0.05)
    least, passed, most = time.monotonic() - latest, store.now() - first, time.monotonic() - earliest
    assert least - 0.05 <= passed <= most + 0.05, "for the clock of MongoDB is read by the millisecond, and followed"


async def test_the_clock_of_mongodb_is_followed(mongo_server: MongoServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mongo_connection, "CLOCK_INTERVAL", 0.05)
    async with open_store(mongo_server.url(f"test_{new_id().lower()}")) as store, within():
        store._connection._zero -= 7200  # type: ignore[attr-defined]  # as when the server's clock was set since
        while abs(store.now() - time.time()) > 60:
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("step", [-7200.0, 7200.0, -3.0])
async def test_delays_and_leases_go_on_when_the_clock_is_set(
    url: str, monkeypatch: pytest.MonkeyPatch, step: float
) -> None:
    async with open_store(url) as store, open_store(url) as other:
        assert await store.follow_clock() == 0.0
        run = make_run()
        await store.add_run(run)
        relayed = make_block(run, 0, created=store.now())
        at_noon = replace(make_block(run, 1, created=store.now()), not_before=store.now() + 20_000)
        await store.add_blocks([relayed, at_noon])
        again = DelayedSlice(f"{relayed.id}.{new_id()}", relayed.id, run.id, "u", "n/f", store.now() + 60, 1, 2)
        await store.add_delayed([again])
        lease = Lease(relayed.id, 1, run.id, "w", fence=1, attempt=1, expires=store.now() + 60)
        await store.take_leases([lease])
        await store.save_heartbeats([WorkerState("w", "h", store.now())])

        set_clock(monkeypatch, step)
        assert await other.follow_clock() == pytest.approx(step, abs=1.0)
        assert await store.follow_clock() == 0.0, "once, whoever saw it"

        now = store.now()
        [slice_] = await store.list_delayed(relayed.id)
        assert 50 < slice_.due - now <= 60
        [held] = await store.list_leases([relayed.id])
        assert held.expires is not None
        assert 50 < held.expires - now <= 60
        assert await store.expired_leases(now=now, limit=9) == []
        assert await store.expired_leases(now=now + 61, limit=9) == [held]
        [state] = await store.list_heartbeats()
        assert 0 <= now - state.time < 10
        stored = await store.get_block(at_noon.id)
        assert stored is not None
        assert stored.not_before == at_noon.not_before, "a time that a user has named"


async def test_a_clock_that_drifts_moves_nothing(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async with open_store(url) as store:
        await store.follow_clock()
        set_clock(monkeypatch, 1.0)
        assert await store.follow_clock() == 0.0
