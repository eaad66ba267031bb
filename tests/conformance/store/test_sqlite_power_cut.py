"""What a store's file holds if the power fails right after a write that the contract calls durable."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import pytest

from dts.model import Block, DeadLetter, DelayedSlice, Lease, Run, RunState, User
from dts.store import Store, open_store
from tests.conformance.store.builders import at_work, jobs, make_block, make_run, succeeded
from tests.services import power_cut


@pytest.fixture
def commits(monkeypatch: pytest.MonkeyPatch) -> power_cut.Commits:
    watched = power_cut.Commits("store.db")
    monkeypatch.setattr(sqlite3, "connect", watched.connect)
    return watched


@pytest.fixture
async def store(commits: power_cut.Commits, tmp_path: Path) -> AsyncIterator[Store]:
    async with open_store(f"sqlite:///{tmp_path}/store.db") as started:
        yield started


def a_lease(block: Block) -> Lease:
    return Lease(block.id, 5, block.run, "w", fence=1, attempt=1, expires=4e9)


def a_slice(block: Block) -> DelayedSlice:
    return DelayedSlice(f"{block.id}.a", block.id, block.run, "ann", block.function, 4e9, jobs(1))


Step = Callable[[Store, Run, Block], Awaitable[object]]

DURABLE: dict[str, tuple[Step, Step]] = {
    "a user": (
        lambda store, run, block: store.add_user(User("eve", b"key", frozenset({"user"}))),
        lambda store, run, block: store.get_user("eve"),
    ),
    "a run": (
        lambda store, run, block: store.add_run(replace(run, id=f"z{run.id[1:]}")),
        lambda store, run, block: store.get_run(f"z{run.id[1:]}"),
    ),
    "the state of a run": (
        lambda store, run, block: store.update_run(run.id, state=RunState.CANCELLED),
        lambda store, run, block: store.get_run(run.id),
    ),
    "blocks": (
        lambda store, run, block: store.add_blocks([make_block(run, 1, body=b"other", created=1.0)]),
        lambda store, run, block: store.get_block(make_block(run, 1).id),
    ),
    "results": (
        lambda store, run, block: store.record([succeeded(block, [2, 3])]),
        lambda store, run, block: store.get_parts(block.id),
    ),
    "what is collected": (
        lambda store, run, block: store.collect(run.id, ["0.0"]),
        lambda store, run, block: store.uncollected_parts(run.id, max_jobs=10),
    ),
    "a delayed slice": (
        lambda store, run, block: store.add_delayed([a_slice(block)]),
        lambda store, run, block: store.list_delayed(block.id),
    ),
    "a slice that has fired": (
        lambda store, run, block: store.finish_delayed([f"{block.id}.0"], now=time.time()),
        lambda store, run, block: store.list_delayed(block.id),
    ),
    "a lease": (
        lambda store, run, block: store.take_leases([a_lease(block)]),
        lambda store, run, block: store.list_leases([block.id]),
    ),
    "a dead letter": (
        lambda store, run, block: store.add_dead_letters([DeadLetter("l", "queue", "reason", b"body", "")]),
        lambda store, run, block: store.list_dead_letters(),
    ),
}


@pytest.mark.parametrize(("write", "read"), DURABLE.values(), ids=DURABLE)
async def test_a_durable_write_returns_when_it_is_on_the_disk(
    store: Store, commits: power_cut.Commits, tmp_path: Path, write: Step, read: Step
) -> None:
    run = make_run()
    block = make_block(run)
    await store.add_blocks([block], run=run)
    await store.record([succeeded(block, [0, 1])])
    await store.add_delayed([replace(a_slice(block), id=f"{block.id}.0")])
    before = await read(store, run, block)
    await store.record([at_work(block, [7])])  # not flushed, so that the next has to say that it wants to be
    assert commits.taken()[-1] != power_cut.FULL
    await write(store, run, block)
    levels = commits.taken()
    assert levels
    assert set(levels) == {power_cut.FULL}
    copy = power_cut.copy(tmp_path / "store.db", tmp_path / "copy")
    after = await read(store, run, block)
    assert after != before
    async with open_store(f"sqlite:///{copy}") as other:
        assert await read(other, run, block) == after
