"""The backlog: what is accepted and not published, as far as no server has claimed it."""

from __future__ import annotations

import time
from dataclasses import replace

from dts.model import Backlog, Block, Claim, RunState
from dts.store import Store
from tests.conformance.store.builders import make_block, make_run, succeeded


async def waiting(store: Store, *runs: str, limit: int = 100) -> list[str]:
    """The ids of blocks in the backlog, of some runs or of all."""
    rows = await store.backlog()
    found = await store.backlog_blocks(runs or [row.run for row in rows], limit=limit)
    return [each.outcome.block for each in found]


async def test_what_waits_is_told_by_run_and_function(store: Store) -> None:
    run, other = make_run("ann"), make_run("bob")
    blocks = [make_block(run, 0, count=8), make_block(run, 1, count=3)]
    mixed = [make_block(other, 0, count=2), replace(make_block(other, 1, count=5), function="math/add")]
    await store.add_blocks(blocks, run=run)
    await store.add_blocks(mixed, run=other)
    assert sorted(await store.backlog(), key=lambda row: (row.user, row.function)) == [
        Backlog(run.id, "ann", "text/upper", 11),
        Backlog(other.id, "bob", "math/add", 5),
        Backlog(other.id, "bob", "text/upper", 2),
    ]


async def test_the_lowest_numbers_come_first_of_all_runs_that_are_asked_for(store: Store) -> None:
    runs = [make_run() for _ in range(3)]
    for run in runs:
        await store.add_blocks([make_block(run, number) for number in range(3)], run=run)
    found = await store.backlog_blocks([runs[0].id, runs[2].id, "none"], limit=5)
    assert [int(each.outcome.block.rpartition("-")[2]) for each in found] == [0, 0, 1, 1, 2]
    assert {each.outcome.run for each in found} == {runs[0].id, runs[2].id}
    assert found[0].outcome == await store.get_outcome(found[0].outcome.block)


async def test_a_block_goes_out_in_parts(store: Store) -> None:
    run = make_run()
    block = make_block(run)
    await store.add_blocks([block], run=run)
    await store.note_sent({block.id: 5, "none-0": 3})
    await store.note_sent({block.id: 3})
    await store.note_sent({})
    [row], [unsent] = await store.backlog(), await store.backlog_blocks([run.id], limit=9)
    assert (row.jobs, unsent.sent) == (3, 5)
    found = await store.get_block(block.id)
    assert found is not None
    assert (found.sent, found.published) == (5, False)
    await store.mark_published([block.id])
    assert await store.backlog() == []
    assert await waiting(store, run.id) == []


async def test_what_is_published_or_has_ended_or_is_for_later_does_not_wait(store: Store) -> None:
    run = make_run()
    blocks = [make_block(run, number) for number in range(4)]
    blocks[3] = replace(blocks[3], not_before=time.time() + 60)
    await store.add_blocks(blocks, run=run)
    await store.mark_published([blocks[1].id])
    await store.record([succeeded(blocks[2], range(8)), succeeded(blocks[0], range(4))])
    assert await waiting(store) == [blocks[0].id]


async def test_blocks_of_paused_and_cancelled_runs_are_passed_over(store: Store) -> None:
    paused: list[Block] = []
    free = set()
    for number in range(12):
        run = make_run(paused=number % 3 == 0, state=RunState.CLOSED)
        block = make_block(run)
        await store.add_blocks([block], run=run)
        if number % 3 == 1:
            await store.update_run(run.id, state=RunState.CANCELLED)
        elif number % 3 == 0:
            paused.append(block)
        else:
            free.add(block.id)
    assert set(await waiting(store)) == free
    await store.update_run(paused[2].run, paused=False)
    assert set(await waiting(store)) == free | {paused[2].id}


async def test_a_block_is_its_server_s_from_its_insert_until_the_claim_ends(store: Store) -> None:
    run = make_run()
    mine, free, over = (make_block(run, number) for number in range(3))
    await store.add_blocks([mine], run=run, claim=Claim("server", 60.0))
    await store.add_blocks([free])
    await store.add_blocks([over], claim=Claim("server", -1.0))
    assert await waiting(store) == [free.id, over.id]
    assert await store.extend_claims([mine.id, over.id], Claim("server", 30.0)) == [mine.id], "the other's has ended"
    assert await waiting(store, run.id) == [free.id, over.id]


async def test_a_claim_is_extended_and_given_back_by_its_holder_alone(store: Store) -> None:
    run = make_run()
    block = make_block(run)
    await store.add_blocks([block], run=run, claim=Claim("server", 60.0))
    assert await store.extend_claims([block.id, "none-0"], Claim("another", 60.0)) == []
    await store.release_claims([block.id, "none-0"], "another")
    assert await waiting(store) == []
    assert await store.extend_claims([block.id], Claim("server", 60.0)) == [block.id]
    await store.release_claims([block.id], "server")
    assert await waiting(store) == [block.id]
    assert await store.extend_claims([block.id], Claim("server", 60.0)) == []


async def test_what_is_published_is_nobody_s(store: Store) -> None:
    run = make_run()
    block = make_block(run)
    await store.add_blocks([block], run=run, claim=Claim("server", 60.0))
    await store.mark_published([block.id])
    assert await store.extend_claims([block.id], Claim("server", 60.0)) == []


async def test_a_repeat_does_not_claim_what_is_there(store: Store) -> None:
    run = make_run()
    block = make_block(run)
    await store.add_blocks([block], run=run)
    assert await store.add_blocks([block], claim=Claim("server", 60.0)) == [False]
    assert await waiting(store) == [block.id]
