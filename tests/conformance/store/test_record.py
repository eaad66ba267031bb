"""The rule of record: the first terminal result of a job wins, and a repeat changes nothing."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence

import pytest

from dts.model import Block, Candidate, Outcome, Part, bitmap, new_id
from dts.store import Store
from tests.conformance.store.builders import at_work, failed, jobs, make_block, make_run, succeeded


@pytest.fixture
async def block(store: Store) -> Block:
    """A block of 8 jobs in the store."""
    run = make_run()
    block = make_block(run)
    await store.add_blocks([block], run=run)
    return block


async def outcome_of(store: Store, block: Block) -> Outcome:
    outcome = await store.get_outcome(block.id)
    assert outcome is not None
    return outcome


async def check_whole(store: Store, blocks: Sequence[Block]) -> None:
    """Every job of the blocks ended exactly once, and all counts say so."""
    for block in blocks:
        outcome, parts = await outcome_of(store, block), await store.get_parts(block.id)
        assert outcome.ended == bitmap.full(block.count)
        assert outcome.running == 0
        assert outcome.succeeded + outcome.failed + outcome.cancelled == block.count
        assert [part.number for part in parts] == list(range(outcome.parts))
        assert sum(part.jobs.bit_count() for part in parts) == block.count  # with the next line: no overlap
        assert sum(part.jobs for part in parts) == bitmap.full(block.count)


async def test_results_become_parts(store: Store, block: Block) -> None:
    results = [succeeded(block, [0, 1], b"one"), failed(block, [7], b"two")]
    assert await store.record(results) == [jobs(0, 1), jobs(7)]
    outcome = await outcome_of(store, block)
    assert (outcome.ended, outcome.succeeded, outcome.failed, outcome.parts) == (jobs(0, 1, 7), 2, 1, 2)
    assert await store.get_parts(block.id) == [
        Part(block.id, 0, jobs(0, 1), b"one", ""),
        Part(block.id, 1, jobs(7), b"two", ""),
    ]


async def test_the_encoding_stays_with_the_body(store: Store, block: Block) -> None:
    await store.record([Candidate(block.id, b"\x00\xff", "deflate", cancelled=jobs(2))])
    assert await store.get_parts(block.id) == [Part(block.id, 0, jobs(2), b"\x00\xff", "deflate")]
    assert (await outcome_of(store, block)).cancelled == 1


async def test_the_first_result_wins(store: Store, block: Block) -> None:
    await store.record([succeeded(block, [0, 1])])
    assert await store.record([failed(block, [1, 2])]) == [jobs(2)]
    outcome = await outcome_of(store, block)
    assert (outcome.succeeded, outcome.failed) == (2, 1)
    assert [part.jobs for part in await store.get_parts(block.id)] == [jobs(0, 1), jobs(2)]


async def test_a_repeat_changes_nothing(store: Store, block: Block, open_another: Callable[[], Store]) -> None:
    result = succeeded(block, range(8))
    await store.record([result])
    before, parts = await outcome_of(store, block), await store.get_parts(block.id)
    assert await store.record([result, result]) == [0, 0]
    other = open_another()
    await other.start()
    assert await other.record([result, failed(block, [3])]) == [0, 0]
    assert await outcome_of(store, block) == before
    assert await store.get_parts(block.id) == parts


async def test_a_repeat_in_the_same_call_counts_once(store: Store, block: Block) -> None:
    assert await store.record([succeeded(block, [0, 1]), succeeded(block, [1, 2]), failed(block, [0])]) == [
        jobs(0, 1),
        jobs(2),
        0,
    ]


async def test_an_unknown_block_is_none_and_harms_no_other(store: Store, block: Block) -> None:
    stranger = make_block(make_run())
    answers = await store.record([succeeded(stranger, [0]), succeeded(block, [0]), Candidate("no block", b"")])
    assert answers == [None, jobs(0), None]
    assert await store.get_outcome(stranger.id) is None
    assert await store.get_parts(stranger.id) == []
    assert await store.record([succeeded(make_block(make_run(id=new_id())), [0])]) == [None]


async def test_indices_beyond_the_block_are_ignored(store: Store, block: Block) -> None:
    assert await store.record([succeeded(block, [7, 8, 5000]), at_work(block, [6, 9])]) == [jobs(7), 0]
    outcome = await outcome_of(store, block)
    assert (outcome.ended, outcome.running, outcome.succeeded) == (jobs(7), jobs(6), 1)


async def test_running_is_noted_until_a_job_ends(store: Store, block: Block) -> None:
    assert await store.record([at_work(block, [0, 1, 2])]) == [0]
    assert (await outcome_of(store, block)).running == jobs(0, 1, 2)
    await store.record([at_work(block, [3])])
    await store.record([succeeded(block, [1])])
    assert (await outcome_of(store, block)).running == jobs(0, 2, 3)
    assert await store.record([at_work(block, [1])]) == [0]
    outcome = await outcome_of(store, block)
    assert (outcome.running, outcome.parts) == (jobs(0, 2, 3), 1)


async def test_one_call_records_for_many_blocks(store: Store) -> None:
    run = make_run()
    blocks = [make_block(run, number) for number in range(30)]
    await store.add_blocks(blocks, run=run)
    candidates = [succeeded(block, indices) for indices in (range(3), range(2, 8)) for block in blocks]
    assert await store.record(candidates) == [jobs(0, 1, 2)] * 30 + [jobs(3, 4, 5, 6, 7)] * 30
    await check_whole(store, blocks)


async def test_calls_at_once_on_one_store_lose_nothing(store: Store) -> None:
    run = make_run(block_size=64)
    blocks = [make_block(run, number) for number in range(3)]
    await store.add_blocks(blocks, run=run)
    results = [succeeded(block, [index]) for block in blocks for index in range(64)]
    random.Random(1).shuffle(results)
    answers = await asyncio.gather(*(store.record(results[start : start + 8]) for start in range(0, 192, 8)))
    assert all(jobs is not None and jobs.bit_count() == 1 for answer in answers for jobs in answer)
    await check_whole(store, blocks)


async def test_porters_at_once_end_every_job_once(store: Store, open_another: Callable[[], Store]) -> None:
    porters = [store, *(open_another() for _ in range(3))]
    for porter in porters[1:]:
        await porter.start()
    run = make_run(block_size=100)
    blocks = [make_block(run, number) for number in range(4)]
    await store.add_blocks(blocks, run=run)

    async def port(porter: Store, seed: int) -> int:
        chance, ended = random.Random(seed), 0
        everything = [(block, start) for block in blocks for start in range(0, 100, 10)]
        chance.shuffle(everything)
        while everything:
            batch, everything = everything[:7], everything[7:]
            kind = chance.choice([succeeded, failed])
            # overlaps with its neighbours by 5 jobs on either side
            candidates = [kind(block, range(max(0, start - 5), min(100, start + 15))) for block, start in batch]
            candidates += [at_work(block, range(100)) for block, _ in batch[:1]]
            ended += sum((jobs or 0).bit_count() for jobs in await porter.record(candidates))
        return ended

    ended = await asyncio.gather(*(port(porter, seed) for seed, porter in enumerate(porters * 2)))
    assert sum(ended) == 400
    await check_whole(store, blocks)


async def test_a_lone_first_job_is_recorded_in_a_block_of_any_size(store: Store) -> None:
    run = make_run()
    single, whole = make_block(run, 0, count=1), make_block(run, 1)
    await store.add_blocks([single, whole], run=run)
    unknown = Candidate(f"{run.id}-7", b"nobody's", succeeded=jobs(0))
    results = [succeeded(single, [0], b"one"), succeeded(whole, [0], b"of eight"), unknown]
    assert await store.record(results) == [jobs(0), jobs(0), None]
    assert await store.record(results) == [0, 0, None]
    for block in (single, whole):
        outcome = await outcome_of(store, block)
        assert (outcome.ended, outcome.succeeded, outcome.parts, outcome.count) == (jobs(0), 1, 1, block.count)
    assert [part.body for part in await store.get_parts(whole.id)] == [b"of eight"]
    assert await store.record([failed(whole, range(1, 8))]) == [jobs(*range(1, 8))]
    await check_whole(store, [single, whole])


async def test_a_single_job_ends_once_whoever_comes_first(store: Store) -> None:
    run = make_run()
    block = make_block(run, count=1)
    await store.add_blocks([block], run=run)
    cancelled = Candidate(block.id, b"cancelled", cancelled=jobs(0))
    ended = await asyncio.gather(*(store.record([each]) for each in (succeeded(block, [0]), cancelled) * 5))
    assert sorted(jobs_ or 0 for [jobs_] in ended) == [0] * 9 + [1]
    await check_whole(store, [block])
