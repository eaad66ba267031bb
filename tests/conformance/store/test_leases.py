"""Jobs under a lease: taken, extended, lost, queued again under the next fence."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace

import pytest

from dts.model import Lease
from dts.store import Store
from tests.conformance.store.builders import jobs

LEASE = Lease("run-0", 3, "run", "w1", fence=1, attempt=1, expires=100.0)


async def stored(store: Store) -> Lease:
    [lease] = await store.list_leases([LEASE.block])
    return lease


async def test_a_lease_is_taken_and_extended(store: Store) -> None:
    assert await store.take_leases([LEASE, replace(LEASE, job=4)]) == [True, True]
    assert sorted(each.job for each in await store.list_leases(["run-0", "run-1"])) == [3, 4]
    assert await store.take_leases([replace(LEASE, expires=200.0)]) == [True]
    assert await store.take_leases([replace(LEASE, expires=150.0)]) == [True], "news that were overtaken"
    found = {each.job: each.expires for each in await store.list_leases([LEASE.block])}
    assert found == {3: 200.0, 4: 100.0}


async def test_a_newer_fence_makes_the_older_one_void(store: Store) -> None:
    await store.take_leases([LEASE])
    newer = replace(LEASE, fence=2, worker="w2", attempt=2, expires=300.0)
    assert await store.take_leases([newer, LEASE]) == [True, False]
    assert await stored(store) == newer


async def test_an_expired_lease_is_lost_to_one_of_many(store: Store, open_another: Callable[[], Store]) -> None:
    others = [store, open_another(), open_another()]
    for other in others[1:]:
        await other.start()
    await store.take_leases([LEASE, replace(LEASE, job=4, expires=500.0)])
    assert await store.expired_leases(now=100.0, limit=10) == []
    assert await store.expired_leases(now=101.0, limit=10) == [LEASE]
    lost = await asyncio.gather(*(each.lose_lease(LEASE) for each in others * 3))
    after = replace(LEASE, fence=2, lost=True)
    assert [each for each in lost if each] == [after]
    assert await store.expired_leases(now=101.0, limit=10) == [after], "whoever lost it may have died"


async def test_a_lease_that_is_extended_in_time_is_not_lost(store: Store) -> None:
    await store.take_leases([LEASE])
    [seen] = await store.expired_leases(now=101.0, limit=10)
    await store.take_leases([replace(LEASE, expires=200.0)])
    assert await store.lose_lease(seen) is None
    assert (await stored(store)).fence == 1


async def test_a_lost_lease_is_queued_and_taken_again(store: Store) -> None:
    await store.take_leases([LEASE])
    lost = await store.lose_lease(LEASE)
    assert lost is not None
    assert await store.take_leases([replace(LEASE, expires=400.0)]) == [False], "the old worker has woken up"
    assert await store.take_leases([replace(LEASE, fence=2, expires=400.0)]) == [False], "nobody has that fence yet"
    await store.queue_lease(lost)
    assert await stored(store) == replace(LEASE, fence=2, expires=None)
    assert await store.expired_leases(now=1000.0, limit=10) == []
    again = replace(LEASE, fence=2, attempt=2, worker="w2", expires=400.0)
    assert await store.take_leases([again]) == [True]
    await store.queue_lease(lost)
    assert await stored(store) == again


async def test_a_lease_is_passed_on_by_its_holder(store: Store) -> None:
    await store.take_leases([LEASE])
    assert await store.pass_lease(LEASE)
    assert await stored(store) == replace(LEASE, fence=2, expires=None)
    assert not await store.pass_lease(LEASE), "the same news again"


async def test_leases_of_jobs_that_ended_are_released(store: Store) -> None:
    await store.take_leases([LEASE, replace(LEASE, job=4), replace(LEASE, block="other-0")])
    await store.release_jobs({LEASE.block: jobs(3, 7), "unknown": jobs(1)})
    assert [each.job for each in await store.list_leases([LEASE.block])] == [4]
    assert len(await store.list_leases(["other-0"])) == 1


@pytest.mark.parametrize("block", ["", "ü" * 50, "\ud800"])
async def test_leases_of_strange_blocks(store: Store, block: str) -> None:
    assert await store.take_leases([replace(LEASE, block=block)]) == [True]
    assert len(await store.list_leases([block])) == 1
