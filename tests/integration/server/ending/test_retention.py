"""Runs are kept as long as the limits of their user, function and namespace say, and no longer."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace

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
        replace(new_block(run, number, function, batch_from_arguments([Arguments(b"[]", b"")] * 2)), created=created)
        for number, function in enumerate(functions)
    ]
    await site.store.add_blocks(blocks, run=run)
    await site.store.record([Candidate(block.id, b"results", succeeded=3 if finished else 1) for block in blocks])
    return run


async def passed(site: Site, seconds: float = 0.06) -> None:
    """Wait until so many seconds have passed by the clock that retention counts by."""
    begun = site.store.now()
    while site.store.now() < begun + seconds:
        await asyncio.sleep(0.01)


async def end(site: Site, run: Run) -> None:
    """End what has not ended of a run."""
    await site.store.record([Candidate(f"{run.id}-{number}", b"rest", succeeded=3) for number in range(2)])


@pytest.mark.parametrize("subject", ["users/bob", "namespaces/text", "functions/text%2Fupper"])
async def test_a_run_goes_when_its_time_is_over(site: Site, subject: str) -> None:
    await site.add_user("bob")
    gone, unfinished, open_ = [
        await a_run(site),
        await a_run(site, finished=False),
        await a_run(site, finished=False, open_=True),
    ]
    retention = Retention(site.store)
    assert await retention.sweep() == 0, "without a limit, everything is kept"
    await site.api().call("PATCH", f"/admin/{subject}", {"limits": {"retention": 3600}})
    assert await retention.sweep() == 0, "the time runs from when a run has finished, not from when it was created"
    await site.api().call("PATCH", f"/admin/{subject}", {"limits": {"retention": 0.05}})
    await passed(site)
    assert await retention.sweep() == 1
    assert await site.store.get_run(gone.id) is None
    assert await site.store.get_outcome(f"{gone.id}-0") is None
    for run in (unfinished, open_):
        assert await site.store.get_run(run.id) == run
    await end(site, unfinished)
    await passed(site)
    assert await Retention(site.store).sweep() == 1, "whoever sweeps"
    assert await site.store.get_run(unfinished.id) is None


async def test_a_run_that_was_left_open_is_closed_and_goes_when_its_time_is_over(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    await site.add_user("bob")
    left, used, fed = [await a_run(site, open_=True, age=age) for age in (100.0, 100.0, 0.0)]
    unfinished = await a_run(site, open_=True, finished=False)
    block = new_block(used, 2, used.function, batch_from_arguments([Arguments(b"[]", b"")]))
    await site.store.add_blocks([block])
    await site.store.record([Candidate(block.id, b"results", succeeded=1)])
    await site.api().call("PATCH", "/admin/users/bob", {"limits": {"retention": 0.05}})
    retention = Retention(site.store)
    assert await retention.sweep() == 0
    assert await site.store.get_run(left.id) == left, "a short time of retention closes no run under its client"
    monkeypatch.setattr(module, "_IDLE", 50.0)
    assert await retention.sweep() == 0, "its time begins when it is closed"
    await passed(site)
    assert await retention.sweep() == 1
    assert await site.store.get_run(left.id) is None
    for run in (used, fed, unfinished):
        assert await site.store.get_run(run.id) == run


async def test_a_run_of_several_functions_goes_by_the_one_with_the_shortest_time(site: Site) -> None:
    runs = [await a_run(site, functions=("text/upper", "own/other")), await a_run(site, functions=("a/b", "own/other"))]
    await site.api().call("PATCH", "/admin/functions/text%2Fupper", {"limits": {"retention": 0.05}})
    await passed(site)
    assert await Retention(site.store).sweep() == 1
    assert await site.store.get_run(runs[0].id) is None
    assert await site.store.get_run(runs[1].id) is not None


async def test_only_one_sweeps_at_a_time(site: Site) -> None:
    await site.add_user("bob")
    for _ in range(5):
        await a_run(site)
    await site.api().call("PATCH", "/admin/users/bob", {"limits": {"retention": 0.01}})
    await passed(site)
    deleted = await asyncio.gather(*(Retention(site.store).sweep() for _ in range(3)))
    assert sorted(deleted) == [0, 0, 5]


async def test_the_shortest_time_counts_and_others_are_left_alone(site: Site) -> None:
    for user in ("bob", "eve"):
        await site.add_user(user)
    bobs, eves = await a_run(site), await a_run(site, user="eve")
    api = site.api()
    await api.call("PATCH", "/admin/users/bob", {"limits": {"retention": 0.01}})
    await api.call("PATCH", "/admin/namespaces/text", {"limits": {"retention": 3600}})
    await passed(site)
    assert await Retention(site.store).sweep() == 1
    assert await site.store.get_run(bobs.id) is None
    assert await site.store.get_run(eves.id) is not None


async def test_a_sweep_takes_page_after_page_until_its_time_is_over(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    await site.add_user("bob")
    for _ in range(7):
        await a_run(site)
    await site.api().call("PATCH", "/admin/users/bob", {"limits": {"retention": 0.01}})
    await passed(site)
    monkeypatch.setattr(module, "_PAGE", 2)
    looks = [4]  # a page, and its runs; twice

    def in_time(_: Retention) -> bool:
        looks[0] -= 1
        return looks[0] >= 0

    with monkeypatch.context() as patch:
        patch.setattr(Retention, "_in_time", in_time)
        assert await Retention(site.store).sweep() == 4
    assert await Retention(site.store).sweep() == 3
