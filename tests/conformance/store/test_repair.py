"""Published blocks whose jobs do not end: found, and claimed by one of all who look after them."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from dataclasses import replace

from dts.model import DelayedSlice, Function, Lease, RunState
from dts.store import Store
from tests.conformance.store.builders import jobs, make_block, make_run, succeeded

FUNCTION = "text/upper"


async def test_only_unfinished_blocks_that_were_published_are_found(store: Store) -> None:
    run = make_run()
    published, open_, ended, new = (make_block(run, number, created=100.0) for number in range(4))
    blocks = [replace(published, published=True), open_, ended, replace(new, created=time.time())]
    await store.add_blocks(blocks, run=run)
    await store.mark_published([ended.id, new.id])
    await store.record([succeeded(ended, range(8)), succeeded(published, [0, 2])])
    [found] = await store.published_blocks(function=FUNCTION, older_than=200.0)
    assert (found.block, found.unfinished) == (published.id, jobs(1, 3, 4, 5, 6, 7))
    assert await store.published_blocks(function="text/lower", older_than=200.0) == []


async def test_blocks_of_paused_and_cancelled_runs_are_not_found(store: Store) -> None:
    paused, cancelled = make_run(paused=True), make_run()
    for run in (paused, cancelled):
        await store.add_blocks([replace(make_block(run, created=100.0), published=True)], run=run)
    await store.update_run(cancelled.id, state=RunState.CANCELLED)
    assert await store.published_blocks(function=FUNCTION, older_than=200.0) == []


async def test_published_blocks_are_paged_by_id(store: Store) -> None:
    run = make_run()
    blocks = [replace(make_block(run, number, created=100.0), published=True) for number in range(5)]
    await store.add_blocks(blocks, run=run)
    seen: list[str] = []
    while page := await store.published_blocks(
        function=FUNCTION, older_than=200.0, limit=2, after=seen[-1] if seen else ""
    ):
        seen += [outcome.block for outcome in page]
    assert seen == sorted(block.id for block in blocks)


async def test_a_published_block_is_claimed_once_until_its_time_is_over(store: Store) -> None:
    run = make_run()
    short, long, open_ = (make_block(run, number, created=100.0) for number in range(3))
    await store.add_blocks([replace(short, published=True), replace(long, published=True), open_], run=run)
    wanted = {short.id: 0.3, long.id: 60.0, open_.id: 60.0, "unknown": 60.0}
    claims = await asyncio.gather(*(store.claim_published(wanted, "me") for _ in range(4)))
    assert sorted(block for claimed in claims for block in claimed) == sorted([short.id, long.id])
    assert await store.published_blocks(function=FUNCTION, older_than=200.0) == []
    await asyncio.sleep(0.4)
    assert [each.block for each in await store.published_blocks(function=FUNCTION, older_than=200.0)] == [short.id]
    await store.release_claims([long.id], "me")
    assert sorted(await store.claim_published(wanted, "me")) == sorted([short.id, long.id])
    assert await store.claim_published({}, "me") == []


async def test_jobs_that_are_delayed_or_leased_wait_without_a_message(store: Store) -> None:
    run = make_run()
    one, other = make_block(run, 0), make_block(run, 1)
    await store.add_blocks([one, other], run=run)
    waits = DelayedSlice(f"{one.id}.a", one.id, run.id, "ann", FUNCTION, time.time() + 60, jobs(1, 2), attempt=2)
    await store.add_delayed([waits, replace(waits, id=f"{one.id}.b", jobs=jobs(3))])
    await store.finish_delayed([f"{one.id}.b"], now=time.time())
    held = Lease(one.id, 5, run.id, "worker", fence=1, attempt=1, expires=time.time() + 60)
    queued = replace(held, job=6)
    await store.take_leases([held, queued])
    assert await store.pass_lease(queued)
    assert await store.waiting_jobs([one.id, other.id]) == {one.id: jobs(1, 2, 5)}
    assert await store.waiting_jobs([other.id]) == {}


async def test_any_number_of_blocks_may_be_asked_about_at_once(store: Store) -> None:
    reader = getattr(store, "_reader", None)  # SQLite's: builds of it differ in how many values a statement may have
    if reader is not None:
        await reader.submit(lambda db: db.setlimit(sqlite3.SQLITE_LIMIT_VARIABLE_NUMBER, 32_766))
    run = make_run()
    block = make_block(run)
    await store.add_blocks([block], run=run)
    await store.mark_published([block.id])
    await store.add_delayed([DelayedSlice(f"{block.id}.a", block.id, run.id, "ann", FUNCTION, 0.0, jobs(1, 2))])
    await store.take_leases([Lease(block.id, 5, run.id, "worker", fence=1, attempt=1, expires=time.time() + 60)])
    many = [*(f"{run.id}-{number}" for number in range(1, 50_000)), block.id, "no \udc80 id"]
    assert await store.waiting_jobs(many) == {block.id: jobs(1, 2, 5)}
    assert [lease.job for lease in await store.list_leases(many)] == [5]
    assert await store.jobs_in_flight(user=run.user, blocks=many) == {block.id: 6}
    assert await store.list_records(Function, where={"namespace": tuple(many)}) == []
