"""Results on their way to a client: pages, receipts, statistics, what can be retrieved."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace

import pytest

from dts.model import Block, DeadLetter, DelayedSlice, Run, Statistics, job_id, new_id
from dts.store import Store
from dts.store.contract.shared import PAGE_BYTES
from tests.conformance.store.builders import at_work, failed, jobs, make_block, make_run, succeeded


@pytest.fixture
async def run(store: Store) -> Run:
    """A run with three blocks of 8 jobs: parts of 4 + 4 jobs, of 8 jobs, and of 1 + 1 jobs."""
    run = make_run()
    blocks = blocks_of(run)
    await store.add_blocks(blocks, run=run)
    await store.record(
        [
            succeeded(blocks[0], range(4), b"0.0"),
            failed(blocks[0], range(4, 8), b"0.1"),
            succeeded(blocks[1], range(8), b"1.0"),
            succeeded(blocks[2], [5], b"2.0"),
            succeeded(blocks[2], [2], b"2.1"),
        ]
    )
    return run


def blocks_of(run: Run) -> list[Block]:
    return [make_block(run, number, created=1.0) for number in range(3)]


async def receipts(store: Store, run: Run, max_jobs: int = 1000) -> set[str]:
    return {part.receipt for part in await store.uncollected_parts(run.id, max_jobs=max_jobs)}


async def test_all_parts_of_a_run_are_given_whole(store: Store, run: Run) -> None:
    parts = await store.uncollected_parts(run.id, max_jobs=1000)
    assert sorted((part.receipt, part.body) for part in parts) == [
        (receipt, receipt.encode()) for receipt in ("0.0", "0.1", "1.0", "2.0", "2.1")
    ]
    assert {part.block for part in parts} == {block.id for block in blocks_of(run)}
    assert await store.uncollected_parts(run.id, max_jobs=1000) == parts
    assert await store.uncollected_parts(new_id(), max_jobs=1000) == []


@pytest.mark.parametrize("max_jobs", [0, 1, 2, 4, 5, 8, 9, 17])
async def test_a_page_is_about_as_large_as_asked(store: Store, run: Run, max_jobs: int) -> None:
    seen: set[str] = set()
    while page := await store.uncollected_parts(run.id, max_jobs=max_jobs):
        sizes = [part.jobs.bit_count() for part in page]
        assert sum(sizes[:-1]) < max(1, max_jobs)
        assert not seen & {part.receipt for part in page}
        seen |= {part.receipt for part in page}
        assert await store.collect(run.id, [part.receipt for part in page]) == sum(sizes)
    assert len(seen) == 5


async def test_a_page_of_large_bodies_has_fewer_parts(store: Store) -> None:
    run = make_run()
    block = make_block(run)
    await store.add_blocks([block], run=run)
    await store.record([succeeded(block, [index], b"x" * (PAGE_BYTES // 3 + 1)) for index in range(4)])
    assert await receipts(store, run) == {"0.0", "0.1"}
    await store.collect(run.id, ["0.0", "0.1"])
    assert await receipts(store, run) == {"0.2", "0.3"}


async def test_what_was_collected_is_not_given_again(store: Store, run: Run) -> None:
    assert await store.collect(run.id, ["0.1", "2.0"]) == 5
    assert await receipts(store, run) == {"0.0", "1.0", "2.1"}
    assert await store.collect(run.id, ["0.1", "2.0", "2.1"]) == 1
    assert await store.collect(run.id, ["0.1", "0.1", "2.0", "2.1"]) == 0
    assert await receipts(store, run) == {"0.0", "1.0"}


async def test_collected_parts_are_still_read_by_block(store: Store, run: Run) -> None:
    block = blocks_of(run)[0]
    before = await store.get_parts(block.id)
    await store.collect(run.id, ["0.0", "0.1"])
    assert await store.get_parts(block.id) == before
    assert [part.body for part in before] == [b"0.0", b"0.1"]


async def test_strange_receipts_are_passed_over(store: Store, run: Run) -> None:
    strange = ["", ".", "0", "0.", ".0", "0.9", "9.0", "-1.0", "0.-1", "0.0.0", "a.b", "٣.٠", "0x0.0", " 0.0", "1e0.0"]
    strange += ["\x00.0", "0.0\n", '{"$gt": ""}', "\ud800.0", "9" * 10_000 + ".0", "0." + "9" * 10_000, "9" * 18 + ".0"]
    assert await store.collect(run.id, strange) == 0
    assert await store.collect(make_run().id, ["0.0"]) == 0
    assert len(await receipts(store, run)) == 5
    assert await store.collect(run.id, [*strange, "1.0"]) == 8


async def test_a_part_is_collected_by_one_of_many(store: Store, run: Run, open_another: Callable[[], Store]) -> None:
    other = open_another()
    await other.start()
    everything = ["0.0", "0.1", "1.0", "2.0", "2.1"]
    counts = await asyncio.gather(
        *(one.collect(run.id, everything[start:]) for start in range(4) for one in (store, other))
    )
    assert sum(counts) == 18
    assert await receipts(store, run) == set()


async def test_parts_may_come_while_others_are_collected(store: Store, open_another: Callable[[], Store]) -> None:
    porter = open_another()
    await porter.start()
    run = make_run(block_size=60)
    blocks = [make_block(run, number) for number in range(2)]
    await store.add_blocks(blocks, run=run)

    async def port() -> None:
        for start in range(0, 60, 5):
            await porter.record([succeeded(block, range(start, start + 5)) for block in blocks])

    porting = asyncio.create_task(port())
    collected = 0
    while collected < 120:
        collected += await store.collect(run.id, await receipts(store, run, max_jobs=20))
    await porting
    assert collected == 120
    assert await store.uncollected_parts(run.id, max_jobs=10) == []
    assert await store.retrievables("ann", limit=10) == []


async def test_statistics_count_jobs_by_state(store: Store, run: Run) -> None:
    assert await store.run_statistics(run.id) == Statistics(total=24, accepted=6, succeeded=14, failed=4)
    blocks = blocks_of(run)
    await store.record([at_work(blocks[2], [0, 1]), replace(failed(blocks[2], []), cancelled=jobs(7))])
    expected = Statistics(total=24, accepted=3, running=2, succeeded=14, failed=4, cancelled=1)
    assert await store.run_statistics(run.id) == expected
    await store.mark_published([block.id for block in blocks])
    published = replace(expected, accepted=0)
    assert await store.run_statistics(run.id) == published
    assert published.queued == 3
    await store.collect(run.id, ["0.0", "1.0"])
    assert await store.run_statistics(run.id) == published
    assert await store.run_statistics(new_id()) == Statistics()


async def test_statistics_of_a_user_are_over_all_runs(store: Store, run: Run) -> None:
    second, of_bob = make_run(), make_run("bob")
    await store.add_blocks([make_block(second, count=3)], run=second)
    await store.add_blocks([make_block(of_bob)], run=of_bob)
    assert await store.user_statistics("ann") == Statistics(total=27, accepted=9, succeeded=14, failed=4)
    assert await store.user_statistics("bob") == Statistics(total=8, accepted=8)
    assert await store.user_statistics("nobody") == Statistics()


async def test_retrievables_are_ended_and_uncollected_oldest_run_first(store: Store) -> None:
    old, new, of_bob = make_run(id="0" * 26), make_run(id="1" * 26), make_run("bob")
    for run in (new, old, of_bob):
        blocks = [make_block(run, number) for number in (0, 10)]
        await store.add_blocks(blocks, run=run)
        await store.record([succeeded(blocks[1], [3]), failed(blocks[0], [1, 2])])
        await store.record([at_work(blocks[0], [5])])
    ids = [job_id(run.id, number) for run in (old, new) for number in (1, 2, 83)]
    assert await store.retrievables("ann", limit=1000) == ids
    assert await store.retrievables("ann", limit=4) == ids[:4]
    assert await store.retrievables("ann", limit=0) == []
    assert await store.collect(old.id, ["0.0"]) == 2
    assert await store.retrievables("ann", limit=1000) == ids[2:]
    assert await store.retrievables("nobody", limit=10) == []


async def test_dead_letters_are_kept_once_and_paged_by_id(store: Store) -> None:
    headers: dict[str, str | int] = {"x-attempt": 3, "dotted.name": "value", "$dollar": "ü", "": "\ud800"}
    letters = [
        DeadLetter(
            new_id() + str(number), "jobs.default", "does not decode: \udcff", b"\x00\xff", "deflate", headers, 1.5
        )
        for number in range(5)
    ]
    await store.add_dead_letters(letters[::-1])
    await store.add_dead_letters([replace(letters[2], reason="other"), letters[0]])
    await store.add_dead_letters([])
    listed = await store.list_dead_letters()
    in_order = sorted(letters, key=lambda letter: letter.id)
    assert [letter.id for letter in listed] == [letter.id for letter in in_order]
    assert {letter.reason for letter in listed} == {"does not decode: \\udcff"}
    assert replace(listed[0], reason=in_order[0].reason) == in_order[0]
    page = await store.list_dead_letters(limit=2)
    assert page == listed[:2]
    assert await store.list_dead_letters(limit=9, after=page[-1].id) == listed[2:]


# jobs that are collected one by one


def ids_of(run: Run, *numbers: int) -> list[str]:
    return [job_id(run.id, number) for number in numbers]


async def test_jobs_are_collected_one_by_one(store: Store, run: Run) -> None:
    everything = await store.retrievables("ann", limit=100)
    assert await store.collect_jobs("ann", ids_of(run, 1, 6, 18)) == 3
    left = [job for job in everything if job not in ids_of(run, 1, 6, 18)]
    assert await store.retrievables("ann", limit=100) == left
    assert await store.collect_jobs("ann", ids_of(run, 1, 6, 18)) == 0
    assert await store.collect_jobs("ann", everything) == len(left)
    assert await store.retrievables("ann", limit=100) == []
    assert await store.uncollected_parts(run.id, max_jobs=100) == []


async def test_a_part_is_given_until_all_its_jobs_are_collected(store: Store, run: Run) -> None:
    await store.collect_jobs("ann", ids_of(run, 0, 1, 2))
    assert "0.0" in await receipts(store, run)
    await store.collect_jobs("ann", ids_of(run, 3))
    assert await receipts(store, run) == {"0.1", "1.0", "2.0", "2.1"}


async def test_a_receipt_counts_the_jobs_that_were_not_collected_before(store: Store, run: Run) -> None:
    await store.collect_jobs("ann", ids_of(run, 8, 9, 10))
    assert await store.collect(run.id, ["1.0", "2.0"]) == 6
    assert await receipts(store, run) == {"0.0", "0.1", "2.1"}
    assert await store.collect_jobs("ann", ids_of(run, 8, 11, 0)) == 1
    assert await store.retrievables("ann", limit=100) == ids_of(run, 1, 2, 3, 4, 5, 6, 7, 18)


async def test_what_cannot_be_collected_is_passed_over(store: Store, run: Run) -> None:
    unended, beyond, elsewhere = ids_of(run, 16)[0], ids_of(run, 24, 10**17), job_id(new_id(), 0)
    strange = ["", "x", run.id, f"{run.id}-", f"{run.id}-x", f"{run.id}--1", "\ud800", f"{run.id}-0.1"]
    assert await store.collect_jobs("ann", [unended, *beyond, elsewhere, *strange]) == 0
    assert await store.collect_jobs("bob", ids_of(run, 0, 1)) == 0
    assert await store.collect_jobs("ann", []) == 0
    assert len(await store.retrievables("ann", limit=100)) == 18


async def test_a_job_that_ends_later_is_not_collected_yet(store: Store, run: Run) -> None:
    await store.collect_jobs("ann", ids_of(run, 18, 21, 16))
    await store.record([succeeded(blocks_of(run)[2], [0], b"2.2")])
    assert await store.retrievables("ann", limit=100) == ids_of(run, *range(16), 16)


async def test_many_collect_the_same_jobs_at_once(store: Store, run: Run, open_another: Callable[[], Store]) -> None:
    other = open_another()
    await other.start()
    ids = await store.retrievables("ann", limit=100)
    calls = [(store, other)[at % 2].collect_jobs("ann", ids[at % 3 :]) for at in range(6)]
    both = [store.collect(run.id, ["0.0", "1.0"]), other.collect(run.id, ["1.0", "2.1"])]
    assert sum(await asyncio.gather(*calls, *both)) == len(ids)
    assert await store.retrievables("ann", limit=100) == []


async def test_results_that_are_not_collected_are_counted_by_run(store: Store, run: Run) -> None:
    other, idle = make_run(), make_run()
    await store.add_blocks([make_block(other)], run=other)
    await store.add_blocks([make_block(idle)], run=idle)
    await store.record([succeeded(make_block(other), [3])])
    asked = [run.id, other.id, idle.id, new_id()]
    assert await store.uncollected_counts(asked) == {run.id: 18, other.id: 1}
    await store.collect(run.id, ["0.0"])
    await store.collect_jobs("ann", [job_id(other.id, 3)])
    assert await store.uncollected_counts(asked) == {run.id: 14}
    assert await store.uncollected_counts([]) == {}


async def test_retrievable_jobs_come_in_pages(store: Store, run: Run) -> None:
    second = make_run()
    await store.add_blocks([make_block(second)], run=second)
    await store.record([succeeded(make_block(second), [7]), succeeded(make_block(second), [1])])
    first, last = sorted([run.id, second.id])
    numbers = {run.id: [*range(16), 18, 21], second.id: [1, 7]}
    expected = [job_id(each, number) for each in (first, last) for number in numbers[each]]
    assert await store.retrievables("ann", limit=100) == expected
    for size in (1, 3, 8, 19):
        seen: list[str] = []
        while page := await store.retrievables("ann", limit=size, after=seen[-1] if seen else None):
            assert len(page) <= size
            seen += page
        assert seen == expected
    await store.collect_jobs("ann", [job_id(run.id, 3), job_id(run.id, 9)])
    left = [each for each in expected if each not in (job_id(run.id, 3), job_id(run.id, 9))]
    after = [each for each in left if expected.index(each) > expected.index(job_id(run.id, 3))]
    assert await store.retrievables("ann", limit=100, after=job_id(run.id, 3)) == after
    assert await store.retrievables("ann", limit=2, after="no id") == left[:2]
    assert await store.retrievables("bob", limit=2, after=expected[0]) == []


async def test_all_that_is_known_of_a_block_is_read_at_once(store: Store, run: Run) -> None:
    block = blocks_of(run)[2]
    waits = DelayedSlice("one", block.id, run.id, run.user, run.function, 1e10, 0b1000, attempt=2)
    gone = replace(waits, id="two", jobs=0b10000)
    await store.add_delayed([waits, gone])
    await store.finish_delayed([gone.id], now=1.0)
    record = await store.inspect_block(block.id)
    assert record is not None
    assert (record.block, record.outcome) == (await store.get_block(block.id), await store.get_outcome(block.id))
    assert record.parts == await store.get_parts(block.id)
    assert (list(record.slices), list(record.leases)) == ([waits], [])
    large = make_run(block_size=64)
    await store.add_blocks([make_block(large)], run=large)
    seen = await store.inspect_block(make_block(large).id)
    assert seen is not None
    assert (seen.parts, list(seen.slices), seen.block.count) == (None, [], 64)
    assert await store.inspect_block(make_block(large, 1).id) is None
