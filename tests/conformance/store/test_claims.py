"""The backlog: what is accepted and not published, as far as no server has claimed it."""

from __future__ import annotations

import time
from dataclasses import replace

from dts.model import Backlog, Block, Claim, RunState, Turns
from dts.store import Store
from tests.conformance.store.builders import backlog_of, make_block, make_run, succeeded


async def waiting(store: Store, *runs: str, limit: int = 100) -> list[str]:
    """The ids of blocks in the backlog, of some runs or of all."""
    return [each.outcome.block for each in await backlog_of(store, *runs, limit=limit)]


async def test_what_waits_is_told_by_run_and_function(store: Store) -> None:
    run, other = make_run("ann"), make_run("bob")
    blocks = [make_block(run, 0, count=8), make_block(run, 1, count=3)]
    mixed = [make_block(other, 0, count=2), replace(make_block(other, 1, count=5), function="math/add")]
    await store.add_blocks(blocks, run=run)
    await store.add_blocks(mixed, run=other)
    assert sorted(await store.backlog(), key=lambda row: (row.user, row.function)) == [
        Backlog(run.id, "ann", "text/upper", 11, blocks=2),
        Backlog(other.id, "bob", "math/add", 5),
        Backlog(other.id, "bob", "text/upper", 2),
    ]


async def test_the_lowest_numbers_of_each_row_come_first(store: Store) -> None:
    runs = [make_run() for _ in range(3)]
    for run in runs:
        await store.add_blocks([make_block(run, number) for number in (2, 0, 1)], run=run)
    rows = {row.run: row for row in await store.backlog()}
    none = replace(rows[runs[0].id], run="none")
    first, last, nothing = await store.backlog_blocks([(rows[runs[0].id], 2), (rows[runs[2].id], 9), (none, 1)])
    assert [each.outcome.block for each in first] == [f"{runs[0].id}-{number}" for number in range(2)]
    assert [each.outcome.block for each in last] == [f"{runs[2].id}-{number}" for number in range(3)]
    assert nothing == []
    assert first[0].outcome == await store.get_outcome(first[0].outcome.block)


async def test_single_jobs_of_a_user_wait_together_by_function_and_priority(store: Store) -> None:
    blocks = []
    for number, (user, priority) in enumerate([("ann", None), ("ann", 9), ("ann", None), ("bob", None)]):
        run = replace(make_run(user), single=True)
        block = replace(make_block(run, created=10.0 - number), single=True, priority=priority)
        await store.add_blocks([block], run=run)
        assert await store.get_block(block.id) == block
        blocks.append(block)
    rows = {(row.user, row.priority): row for row in await store.backlog()}
    assert rows == {
        ("ann", None): Backlog("", "ann", "text/upper", 16, blocks=2),
        ("ann", 9): Backlog("", "ann", "text/upper", 8, 9),
        ("bob", None): Backlog("", "bob", "text/upper", 8),
    }
    [found, urgent] = await store.backlog_blocks([(rows["ann", None], 9), (rows["ann", 9], 9)])
    assert [each.outcome.block for each in found] == [blocks[2].id, blocks[0].id], "the oldest first"
    assert [each.outcome.block for each in urgent] == [blocks[1].id]
    await store.update_run(blocks[2].run, paused=True)
    await store.update_run(blocks[0].run, state=RunState.CANCELLED)
    assert {row.priority for row in await store.backlog() if row.user == "ann"} == {9}


async def test_priority_and_weight_change_while_blocks_wait(store: Store) -> None:
    run = replace(make_run(), priority=3, weight=2.0)
    first, second, late = (replace(make_block(run, number), priority=3, weight=2.0) for number in range(3))
    await store.add_blocks([first, second], run=run)
    assert await store.get_run(run.id) == run
    changed = await store.update_run(run.id, turns=Turns(7, 0.5))
    assert changed == replace(run, priority=7, weight=0.5)
    assert await store.get_run(run.id) == changed
    await store.add_blocks([late])  # its request was let in before
    assert await store.backlog() == [Backlog(run.id, "ann", "text/upper", 24, 7, 0.5, blocks=3)]
    assert await store.update_run(run.id, turns=Turns(None, 1.0)) == replace(run, priority=None, weight=1.0)
    assert await store.backlog() == [Backlog(run.id, "ann", "text/upper", 24, blocks=3)]
    assert await store.update_run("none", turns=Turns(1, 1.0)) is None


async def test_a_block_goes_out_in_parts(store: Store) -> None:
    run = make_run()
    block = make_block(run)
    await store.add_blocks([block], run=run)
    await store.note_sent({block.id: 5, "none-0": 3})
    await store.note_sent({block.id: 3})
    await store.note_sent({})
    [row], [unsent] = await store.backlog(), await backlog_of(store, run.id)
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
