"""Jobs that wait for others to end, who may let them go, and requests that are counted by rate."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import replace

import pytest

from dts.model import Block
from dts.store import Store
from dts.store.contract.gate import Release
from tests.conformance.store.builders import jobs, make_block, make_run, succeeded
from tests.conformance.store.test_delayed import make_slice
from tests.services.waiting import within


async def blocks_of(store: Store, count: int, *, user: str = "ann", function: str = "text/upper") -> list[Block]:
    """Published blocks of eight jobs in one run."""
    run = make_run(user)
    blocks = [replace(make_block(run, number), function=function) for number in range(count)]
    await store.add_blocks(blocks, run=run)
    await store.mark_published([block.id for block in blocks])
    return blocks


async def names(store: Store, user: str = "ann", function: str = "text/upper", limit: int = 10) -> list[str]:
    """The names of gated slices."""
    return [each.id.partition(":")[2] for each in await store.list_gated(user, function, limit=limit)]


async def in_flight(store: Store, **subject: str) -> int:
    """How many jobs of a subject are in flight, asked in both ways."""
    found = await store.jobs_in_flight(**subject)
    some = list(found)[:1]
    assert await store.jobs_in_flight(**subject, blocks=some) == {block: found[block] for block in some}
    assert await store.jobs_in_flight(**subject, blocks=[]) == {}
    return sum(found.values())


async def test_gated_slices_come_by_user_and_function_and_never_by_themselves(store: Store) -> None:
    [block, other] = await blocks_of(store, 2)
    [lower] = await blocks_of(store, 1, function="text/lower")
    late = make_slice(block, "late", 1, due=30.0, gated=True)
    early = make_slice(other, "early", 2, due=20.0, gated=True, attempt=2, kills={2: 1}, body=b"why")
    apart = make_slice(lower, "apart", 3, function="text/lower", gated=True)
    free = make_slice(block, "free", 4, due=25.0)
    await store.add_delayed([late, early, apart, free])
    groups = sorted(await store.gated_groups())
    assert groups == [("ann", "text/lower", apart.due), ("ann", "text/upper", 20.0)]
    assert await store.list_gated("ann", "text/upper", limit=10) == [early, late]
    assert await store.list_delayed(block.id) == [free, late]
    assert await store.claim_delayed(now=100.0, limit=10, lease=60) == [free]
    await store.gate_delayed([free.id], due=25.0)
    assert await names(store) == ["early", "free", "late"]
    await store.reorder_gated(lower.run, lower.function, due=40.0)
    assert sorted(await store.gated_groups()) == [("ann", "text/lower", 40.0), ("ann", "text/upper", 20.0)]
    assert await names(store) == ["early", "free", "late"]
    assert await names(store, limit=1) == ["early"]
    assert await store.claim_delayed(now=1000.0, limit=10, lease=60) == []


async def test_slices_of_a_paused_run_stay_at_the_gate(store: Store) -> None:
    [held] = await blocks_of(store, 1)
    [free] = await blocks_of(store, 1)
    await store.update_run(held.run, paused=True)
    await store.add_delayed([make_slice(held, "held", 1, due=5.0, gated=True)])
    await store.add_delayed([make_slice(free, "free", 1, gated=True)])
    assert await names(store, limit=1) == ["free"]
    await store.update_run(held.run, paused=False)
    assert await names(store) == ["held", "free"]


async def test_released_jobs_are_there_until_it_is_confirmed_that_they_are_out(store: Store) -> None:
    [block] = await blocks_of(store, 1)
    one = make_slice(block, "one", 0, 1, 2, 3, gated=True)
    await store.add_delayed([one])
    assert await store.list_released(limit=10) == []
    assert await store.release_gated([Release(one, jobs(0, 1), jobs(2))]) == [True]
    assert await store.release_gated([Release(one, jobs(2), jobs(3))]) == [False], "it has changed meanwhile"
    after = replace(one, jobs=jobs(2), released=jobs(0, 1))
    assert await store.list_released(limit=10) == await store.list_delayed(block.id) == [after]
    await store.confirm_released([one.id], now=5.0)
    last = replace(after, released=0)
    assert await store.list_delayed(block.id) == [last]
    assert await store.release_gated([Release(last, jobs(2), 0)]) == [True]
    assert await store.list_released(limit=10) == [replace(last, jobs=0, released=jobs(2))]
    await store.confirm_released([one.id], now=6.0)
    assert await store.list_delayed(block.id) == await store.list_released(limit=10) == []
    assert await store.add_delayed([one]) == [False], "its id is remembered"
    assert await store.gated_groups() == []


async def test_jobs_in_flight_are_published_and_neither_ended_nor_waiting(store: Store) -> None:
    [first, second, third] = await blocks_of(store, 3)
    [lower] = await blocks_of(store, 1, user="bob", function="text/lower")
    [elsewhere] = await blocks_of(store, 1, function="texts/upper")
    waiting = make_run()
    await store.add_blocks([make_block(waiting, 0)], run=waiting)  # not published: nobody runs it
    assert await in_flight(store, function="text/upper") == 24
    await store.record([succeeded(first, range(3))])
    one = make_slice(second, "one", *range(8), gated=True)
    two = make_slice(third, "two", 0, 1)
    await store.add_delayed([one, two])
    assert await in_flight(store, function="text/upper") == 5 + 0 + 6
    await store.release_gated([Release(one, jobs(0, 1), jobs(*range(2, 8)))])
    assert await in_flight(store, function="text/upper") == 5 + 2 + 6
    assert await in_flight(store, user="ann") == 13 + 8
    assert await in_flight(store, namespace="text") == 13 + 8
    assert (lower.count, elsewhere.count) == (8, 8)
    await store.record([succeeded(second, [0, 1])])
    await store.finish_delayed([two.id], now=1.0)
    assert await in_flight(store, namespace="text") == 5 + 0 + 8 + 8
    assert (await store.run_statistics(second.run)).delayed == 6


async def test_what_waits_of_one_block_takes_nothing_from_what_is_in_flight_of_another(store: Store) -> None:
    [flying] = await blocks_of(store, 1)
    run = make_run("ann")
    unpublished = make_block(run, 0)
    await store.add_blocks([unpublished], run=run)
    await store.add_delayed([make_slice(unpublished, "new", *range(8), gated=True)])
    assert await in_flight(store, user="ann") == flying.count


async def test_one_holds_a_name_until_the_time_is_over_or_it_lets_go(
    store: Store, open_another: Callable[[], Store]
) -> None:
    other = open_another()
    await other.start()
    won = await asyncio.gather(*(one.acquire("gate", f"{n}", seconds=30) for n, one in enumerate([store, other] * 5)))
    assert sum(won) == 1
    winner = str(won.index(True))
    assert await store.acquire("gate", winner, seconds=0.3)
    assert not await other.acquire("gate", "x", seconds=30)
    assert await other.acquire("another", "x", seconds=30)
    async with within():
        while not await other.acquire("gate", "x", seconds=30):
            await asyncio.sleep(0.02)
    await store.release("gate", winner)
    assert not await store.acquire("gate", winner, seconds=30), "another had it: this one could not release it"
    await other.release("gate", "x")
    assert await store.acquire("gate", winner, seconds=30)


async def test_who_holds_a_name_far_too_long_keeps_it_for_the_usual_time(
    store: Store, open_another: Callable[[], Store]
) -> None:
    """Such as when the clock was set back: who is alive asks again meanwhile, a dead one must not keep it."""
    other = open_another()
    await other.start()
    assert await store.acquire("gate", "dead", seconds=3600)
    assert not await other.acquire("gate", "x", seconds=0.3), "it may be alive"
    async with within():
        while not await other.acquire("gate", "x", seconds=0.3):
            await asyncio.sleep(0.02)
    assert await store.acquire("other", "alive", seconds=3600)
    assert not await other.acquire("other", "x", seconds=30)
    assert await store.acquire("other", "alive", seconds=30)


@pytest.mark.parametrize("rate", [1.0, 3.0, 7.0, 20.0])
async def test_of_many_at_once_a_seconds_worth_gets_its_turn(
    store: Store, open_another: Callable[[], Store], rate: float
) -> None:
    other = open_another()
    await other.start()
    begun = time.monotonic()
    waits = await asyncio.gather(*(one.take_token("bob", rate=rate) for one in [store, other] * 30))
    passed = time.monotonic() - begun
    assert rate <= waits.count(0.0) <= rate + int(rate * passed + 1e-3)
    assert all(0 < wait <= 1 / rate + 0.001 for wait in waits if wait)
    assert await store.take_token("eve", rate=rate) == 0.0, "each has tokens of its own"


async def test_a_turn_comes_when_it_was_said_to_come(store: Store) -> None:
    assert await store.take_token("bob", rate=4.0) == 0.0
    while (wait := await store.take_token("bob", rate=4.0)) == 0.0:
        continue
    await asyncio.sleep(wait + 0.01)
    assert await store.take_token("bob", rate=4.0) == 0.0
    assert await store.take_token("bob", rate=4.0) > 0


async def test_a_slow_rate_gives_one_turn_at_a_time_and_a_higher_one_holds_at_once(store: Store) -> None:
    assert await store.take_token("bob", rate=0.01) == 0.0
    assert 99 < await store.take_token("bob", rate=0.01) <= 100
    assert await store.take_token("bob", rate=1000.0) < 0.002
    await asyncio.sleep(0.01)
    assert await store.take_token("bob", rate=1000.0) == 0.0
