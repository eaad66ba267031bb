"""Runs are kept as long as the limits of their user, function and namespace say, and no longer."""

from __future__ import annotations

import asyncio
import time

import pytest

from dts.model import Block, Candidate, Run, RunState, first_id, new_id
from dts.server.ending import retention as module
from dts.server.ending.retention import Retention
from dts.server.intake.ingest import Arguments, batch_from_arguments, new_block
from tests.integration.conftest import Site


async def a_run(
    site: Site,
    *,
    user: str = "bob",
    age: float = 100.0,
    finished: bool = True,
    open_: bool = False,
    functions: tuple[str, str] = ("text/upper", "text/upper"),
) -> Run:
    """A run of two blocks that was made a while ago."""
    created = time.time() - age
    run_id = first_id(created)[:10] + new_id()[10:]
    only = functions[0] if len(set(functions)) == 1 else ""
    run = Run(run_id, user, only, 2048, RunState.OPEN if open_ else RunState.CLOSED, created=created)
    blocks: list[Block] = [
        new_block(run, number, function, batch_from_arguments([Arguments(b"[]", b"")] * 2))
        for number, function in enumerate(functions)
    ]
    await site.store.add_blocks(blocks, run=run)
    await site.store.record([Candidate(block.id, b"results", succeeded=3 if finished else 1) for block in blocks])
    return run


@pytest.mark.parametrize("subject", ["users/bob", "namespaces/text", "functions/text%2Fupper"])
async def test_a_run_goes_when_its_time_is_over(site: Site, subject: str) -> None:
    await site.add_user("bob")
    gone, unfinished, open_, young = [
        await a_run(site),
        await a_run(site, finished=False),
        await a_run(site, finished=False, open_=True),
        await a_run(site, age=0),
    ]
    retention = Retention(site.store)
    assert await retention.sweep() == 0, "without a limit, everything is kept"
    await site.api().call("PATCH", f"/admin/{subject}", {"limits": {"retention": 0.05}})
    assert await retention.sweep() == 0, "the time runs from when a run is seen to have finished"
    await asyncio.sleep(0.06)
    assert await retention.sweep() == 1
    assert await site.store.get_run(gone.id) is None
    assert await site.store.get_outcome(f"{gone.id}-0") is None
    for run in (unfinished, open_, young):
        assert await site.store.get_run(run.id) == run
    await site.store.record([Candidate(f"{unfinished.id}-{number}", b"rest", succeeded=3) for number in range(2)])
    assert await retention.sweep() == 0, "it has finished only now"
    await asyncio.sleep(0.06)
    assert await Retention(site.store).sweep() == 1, "whoever sweeps"
    assert await site.store.get_run(unfinished.id) is None


async def test_a_run_that_was_left_open_goes_when_nothing_was_added_for_its_time(site: Site) -> None:
    await site.add_user("bob")
    left, used = await a_run(site, open_=True), await a_run(site, open_=True)
    await site.api().call("PATCH", "/admin/users/bob", {"limits": {"retention": 0.2}})
    retention = Retention(site.store)
    assert await retention.sweep() == 0
    block = new_block(used, 2, used.function, batch_from_arguments([Arguments(b"[]", b"")]))
    await site.store.add_blocks([block])
    await site.store.record([Candidate(block.id, b"results", succeeded=1)])
    await asyncio.sleep(0.25)
    assert await retention.sweep() == 1, "the time of the other one runs anew"
    assert await site.store.get_run(left.id) is None
    kept = await site.store.get_run(used.id)
    assert kept is not None
    assert (await site.store.run_statistics(used.id)).total == 5
    await asyncio.sleep(0.25)
    assert await retention.sweep() == 1
    assert await site.store.get_run(used.id) is None


async def test_a_run_of_several_functions_goes_by_the_one_with_the_shortest_time(site: Site) -> None:
    runs = [await a_run(site, functions=("text/upper", "own/other")), await a_run(site, functions=("a/b", "own/other"))]
    await site.api().call("PATCH", "/admin/functions/text%2Fupper", {"limits": {"retention": 0.05}})
    retention = Retention(site.store)
    await retention.sweep()
    await asyncio.sleep(0.06)
    assert await retention.sweep() == 1
    assert [await site.store.get_run(run.id) for run in runs] == [None, runs[1]]


async def test_only_one_sweeps_at_a_time(site: Site) -> None:
    await site.add_user("bob")
    for _ in range(5):
        await a_run(site)
    await site.api().call("PATCH", "/admin/users/bob", {"limits": {"retention": 0.01}})
    await Retention(site.store).sweep()
    await asyncio.sleep(0.02)
    deleted = await asyncio.gather(*(Retention(site.store).sweep() for _ in range(3)))
    assert sorted(deleted) == [0, 0, 5]


async def test_the_shortest_time_counts_and_others_are_left_alone(site: Site) -> None:
    for user in ("bob", "eve"):
        await site.add_user(user)
    bobs, eves = await a_run(site), await a_run(site, user="eve")
    api = site.api()
    await api.call("PATCH", "/admin/users/bob", {"limits": {"retention": 0.01}})
    await api.call("PATCH", "/admin/namespaces/text", {"limits": {"retention": 50}})
    retention = Retention(site.store)
    await retention.sweep()
    await asyncio.sleep(0.02)
    assert await retention.sweep() == 1
    assert await site.store.get_run(bobs.id) is None
    assert await site.store.get_run(eves.id) == eves


async def test_many_unfinished_runs_keep_no_others_from_being_deleted(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A sweep deletes first, and a look that is not through goes on with the next sweep."""
    await site.add_user("bob")
    over, *unfinished = [await a_run(site, age=100 - number, finished=number == 0) for number in range(7)]
    await site.api().call("PATCH", "/admin/users/bob", {"limits": {"retention": 0.01}})
    retention, pages = Retention(site.store), [10]
    await retention.sweep()
    await asyncio.sleep(0.02)

    def in_time(_: Retention) -> bool:
        pages[0] -= 1
        return pages[0] >= 0

    monkeypatch.setattr(module, "_PAGE", 2)
    monkeypatch.setattr(Retention, "_in_time", in_time)
    pages[0] = 1
    assert await retention.sweep() == 1
    assert await site.store.get_run(over.id) is None
    last = unfinished[-1]
    await site.store.record([Candidate(f"{last.id}-{number}", b"rest", succeeded=3) for number in range(2)])
    deleted = []
    for _ in range(5):
        pages[0] = 3  # one of each kind
        deleted.append(await retention.sweep())
        await asyncio.sleep(0.02)
    assert sum(deleted) == 1
    assert await site.store.get_run(last.id) is None
