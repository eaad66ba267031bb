"""Runs are kept as long as the limits of their user, function and namespace say, and no longer."""

from __future__ import annotations

import asyncio
import time

import pytest

from dts.model import Block, Candidate, Run, RunState, first_id, new_id
from dts.server.ingest import Arguments, batch_from_arguments, new_block
from dts.server.retention import Retention
from tests.integration.conftest import Site


async def a_run(
    site: Site, *, user: str = "bob", age: float = 100.0, finished: bool = True, open_: bool = False
) -> Run:
    """A run of two blocks that was made a while ago."""
    created = time.time() - age
    run_id = first_id(created)[:10] + new_id()[10:]
    run = Run(run_id, user, "text/upper", 2048, RunState.OPEN if open_ else RunState.CLOSED, created=created)
    blocks: list[Block] = [
        new_block(run, number, run.function, batch_from_arguments([Arguments(b"[]", b"")] * 2)) for number in range(2)
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
        await a_run(site, open_=True),
        await a_run(site, age=0),
    ]
    retention = Retention(site.store)
    assert await retention.sweep() == 0, "without a limit, everything is kept"
    await site.api().call("PATCH", f"/admin/{subject}", {"limits": {"retention": 0.05}})
    assert await retention.sweep() == 0, "the time runs from when a run is seen to have finished"
    await asyncio.sleep(0.06)
    assert await retention.sweep() >= 1
    assert await site.store.get_run(gone.id) is None
    assert await site.store.get_outcome(f"{gone.id}-0") is None
    for run in (unfinished, open_):
        assert await site.store.get_run(run.id) == run
    assert (await site.store.get_run(young.id) is None) <= (time.time() - young.created > 0.05)


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
