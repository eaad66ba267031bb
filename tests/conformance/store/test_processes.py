"""Several processes on one store, and the violent end of one."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
import uvloop

from dts.errors import StoreUnavailable
from dts.model import bitmap, block_id
from dts.store import Store, open_store
from tests.conformance.store import actor
from tests.conformance.store.actors import actors, line
from tests.conformance.store.builders import make_block, make_run, succeeded


async def test_porters_in_processes_of_their_own_end_every_job_once(store: Store, url: str) -> None:
    run = make_run(block_size=actor.COUNT)
    blocks = [make_block(run, number) for number in range(actor.BLOCKS)]
    await store.add_blocks(blocks, run=run)
    async with actors(3, "record", url, run.id) as porters:
        ended = [int(await line(porter)) for porter in porters]
    assert sum(ended) == actor.BLOCKS * actor.COUNT
    for block in blocks:
        outcome, parts = await store.get_outcome(block.id), await store.get_parts(block.id)
        assert outcome is not None
        assert outcome.ended == bitmap.full(actor.COUNT)
        assert outcome.succeeded == actor.COUNT == sum(part.jobs.bit_count() for part in parts)
        assert sum(part.jobs for part in parts) == outcome.ended
    assert (await store.run_statistics(run.id)).succeeded == actor.BLOCKS * actor.COUNT


async def test_a_killed_process_loses_nothing_that_was_confirmed(url: str, open_another: Callable[[], Store]) -> None:
    confirmed: list[str] = []
    async with actors(1, "add", url, "ann") as (victim,):
        while len(confirmed) < 100:
            confirmed.append(await line(victim))
        victim.kill()
        while block := await line(victim):
            confirmed.append(block)
    store = open_another()
    await store.start()
    for block in confirmed:
        assert await store.get_block(block) is not None
        (part,) = await store.get_parts(block)
        assert (part.jobs, part.body) == (0b11, b"result")
    assert (await store.user_statistics("ann")).succeeded >= 2 * len(confirmed)


def test_it_works_under_uvloop(url: str) -> None:
    async def use() -> None:
        async with open_store(url) as store:
            run = make_run()
            blocks = [make_block(run, number) for number in range(20)]
            await asyncio.gather(*(store.add_blocks([block], run=run) for block in blocks))
            await asyncio.gather(*(store.record([succeeded(block, range(8))]) for block in blocks))
            parts = await store.uncollected_parts(run.id, max_jobs=1000)
            assert {part.block for part in parts} == {block_id(run.id, number) for number in range(20)}
            assert await store.collect(run.id, [part.receipt for part in parts]) == 160

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(use())


async def test_it_may_be_closed_twice_or_without_a_start(url: str) -> None:
    store = open_store(url)
    await store.close()
    await store.start()
    await store.ping()
    await store.close()
    await store.close()


async def test_it_may_be_started_again(url: str) -> None:
    store = open_store(url)
    run = make_run()
    async with store:
        await store.add_run(run)
    async with store:
        assert await store.get_run(run.id) == run


async def test_calls_that_were_begun_finish_before_it_closes(url: str, open_another: Callable[[], Store]) -> None:
    store = open_another()
    await store.start()
    run = make_run()
    await store.add_run(run)
    adding = [asyncio.ensure_future(store.add_blocks([make_block(run, number)])) for number in range(30)]
    assert await adding[0] == [True]
    await asyncio.wait(adding)
    await store.close()
    again = open_another()
    await again.start()
    assert len(await again.list_blocks(run.id)) == 30


async def test_a_caller_that_goes_away_disturbs_nobody(store: Store) -> None:
    run = make_run()
    calls = [asyncio.ensure_future(store.add_blocks([make_block(run, number)], run=run)) for number in range(10)]
    await asyncio.sleep(0)
    for call in calls[::2]:
        call.cancel()
    done = await asyncio.gather(*calls, return_exceptions=True)
    assert [answer for answer in done if answer == [True]] == [[True]] * 5
    await store.ping()


async def test_closed_means_unavailable(url: str) -> None:
    store = open_store(url)
    for _ in range(2):
        with pytest.raises(StoreUnavailable, match="not open"):
            await store.get_run("x")
        with pytest.raises(StoreUnavailable, match="not open"):
            await store.add_run(make_run())
        with pytest.raises(StoreUnavailable):
            await store.ping()
        await store.start()
        await store.close()
