"""The outbox: a block that is not published belongs to one process at a time, from its insert on."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from dts.model import Block, Claim, RunState
from dts.store import Store
from tests.conformance.store.builders import make_block, make_run, succeeded


async def claimed(store: Store, *, limit: int = 100, lease: float = 60.0) -> list[str]:
    return [block.id for block in await store.claim_unpublished(Claim("me", lease), limit=limit)]


async def test_unpublished_blocks_are_claimed_oldest_first_and_whole(store: Store) -> None:
    run = make_run()
    blocks = [make_block(run, number, created=created) for number, created in enumerate((30.0, 10.0, 20.0))]
    await store.add_blocks(blocks, run=run)
    assert await store.claim_unpublished(Claim("me", 60), limit=2) == [blocks[1], blocks[2]]
    assert await claimed(store) == [blocks[0].id]
    assert await claimed(store) == []


async def test_what_is_published_is_not_claimed(store: Store) -> None:
    run = make_run()
    blocks = [make_block(run, number, created=1.0) for number in range(3)]
    await store.add_blocks(blocks, run=run)
    await store.mark_published([blocks[1].id])
    assert await claimed(store) == [blocks[0].id, blocks[2].id]


async def test_what_has_ended_altogether_is_not_claimed(store: Store) -> None:
    run = make_run()
    whole, half = make_block(run, 0, created=1.0), make_block(run, 1, created=1.0)
    await store.add_blocks([whole, half], run=run)
    await store.record([succeeded(whole, range(8)), succeeded(half, range(4))])
    assert await claimed(store) == [half.id]


async def test_a_lease_ends_by_itself(store: Store) -> None:
    run = make_run()
    block = make_block(run, created=1.0)
    await store.add_blocks([block], run=run)
    assert await claimed(store, lease=0.0) == [block.id]
    assert await claimed(store, lease=60.0) == [block.id]
    assert await claimed(store) == []


async def test_a_lease_is_given_to_one_store(store: Store, open_another: Callable[[], Store]) -> None:
    other = open_another()
    await other.start()
    run = make_run()
    blocks = [make_block(run, number, created=1.0) for number in range(40)]
    await store.add_blocks(blocks, run=run)
    claims = await asyncio.gather(*(claimed(one, limit=6) for one in (store, other) * 8))
    given = [block for claim in claims for block in claim]
    assert len(given) == len(set(given))
    while more := await claimed(store, limit=6):
        given += more
    assert sorted(given) == sorted(block.id for block in blocks)


async def test_blocks_of_paused_and_cancelled_runs_are_passed_over(store: Store) -> None:
    waiting: list[Block] = []
    for created in range(12):
        run = make_run(paused=created % 3 == 0, state=RunState.CLOSED)
        block = make_block(run, created=float(created))
        await store.add_blocks([block], run=run)
        if created % 3 == 1:
            await store.update_run(run.id, state=RunState.CANCELLED)
        if created % 3 == 0:
            waiting.append(block)
    free = await claimed(store, limit=3)
    assert len(free) == 3
    assert len(await claimed(store, limit=3)) == 1
    await store.update_run(waiting[2].run, paused=False)
    assert await claimed(store, limit=3) == [waiting[2].id]


async def test_claims_that_are_given_back_are_for_whoever_asks_next(store: Store) -> None:
    run = make_run()
    blocks = [make_block(run, number, created=1.0 + number) for number in range(2)]
    await store.add_blocks(blocks, run=run)
    assert await claimed(store) == [block.id for block in blocks]
    await store.mark_published([blocks[0].id])
    await store.release_claims([*(block.id for block in blocks), "none-0"], "me")
    assert await claimed(store) == [blocks[1].id]


async def test_a_block_is_its_server_s_from_its_insert_until_the_claim_ends(store: Store) -> None:
    run = make_run()
    mine, free = make_block(run, 0, created=1.0), make_block(run, 1, created=2.0)
    await store.add_blocks([mine], run=run, claim=Claim("server", 60.0))
    await store.add_blocks([free])
    assert await claimed(store) == [free.id]
    assert await store.extend_claims([mine.id], Claim("server", 0.0)) == [mine.id]
    assert await claimed(store) == [mine.id]


async def test_a_claim_is_extended_and_given_back_by_its_holder_alone(store: Store) -> None:
    run = make_run()
    block = make_block(run, created=1.0)
    await store.add_blocks([block], run=run, claim=Claim("server", 60.0))
    assert await store.extend_claims([block.id, "none-0"], Claim("another", 60.0)) == []
    await store.release_claims([block.id], "another")
    assert await claimed(store) == []
    await store.release_claims([block.id], "server")
    assert await claimed(store) == [block.id]
    assert await store.extend_claims([block.id], Claim("server", 60.0)) == [], "it is somebody else's now"


async def test_a_claim_that_has_ended_is_extended_while_nobody_else_has_the_block(store: Store) -> None:
    run = make_run()
    block = make_block(run, created=1.0)
    await store.add_blocks([block], run=run, claim=Claim("server", 0.0))
    assert await store.extend_claims([block.id], Claim("server", 60.0)) == [block.id]
    assert await claimed(store) == []
    await store.mark_published([block.id])
    assert await store.extend_claims([block.id], Claim("server", 60.0)) == []


async def test_a_repeat_does_not_claim_what_is_there(store: Store) -> None:
    run = make_run()
    block = make_block(run, created=1.0)
    await store.add_blocks([block], run=run)
    assert await store.add_blocks([block], claim=Claim("server", 60.0)) == [False]
    assert await claimed(store) == [block.id]
