"""Whatever a caller sends as an id is looked up as that text: at worst it is not found."""

from __future__ import annotations

import pytest

from dts.model import Candidate, RunState, Statistics
from dts.store import Store
from tests.conformance.store.builders import make_block, make_run, succeeded

STRANGE = [
    "",
    " ",
    '{"$gt": ""}',
    "$where",
    "a.b",
    "' OR '1'='1",
    "%",
    "\x00",
    "ann\x00",
    "\ud800",
    "ü" * 40,
    "-",
    "-0",
    "0" * 26 + "-" + "9" * 400,
    "x" * 10_000,
]


@pytest.fixture
async def filled(store: Store) -> Store:
    """A store with a run that no strange id may find."""
    run = make_run()
    block = make_block(run, created=1.0)
    await store.add_blocks([block], run=run)
    await store.record([succeeded(block, [0])])
    return store


@pytest.mark.parametrize("strange", STRANGE, ids=range(len(STRANGE)))
async def test_it_is_not_found(filled: Store, strange: str) -> None:
    assert await filled.get_user(strange) is None
    assert await filled.get_function(strange) is None
    assert await filled.get_run(strange) is None
    assert await filled.update_run(strange, state=RunState.CANCELLED, paused=True) is None
    assert await filled.list_runs(strange) == []
    assert len(await filled.list_runs(after=strange)) <= 1
    assert await filled.get_block(strange) is None
    assert await filled.list_blocks(strange) == []
    assert await filled.get_outcome(strange) is None
    assert await filled.get_parts(strange) == []
    assert await filled.uncollected_parts(strange, max_jobs=10) == []
    assert await filled.collect(strange, [strange, "0.0"]) == 0
    assert await filled.run_statistics(strange) == Statistics()
    assert await filled.user_statistics(strange) == Statistics()
    assert await filled.retrievables(strange, limit=10) == []
    assert await filled.record([Candidate(strange, b"", succeeded=1)]) == [None]
    assert await filled.list_dead_letters(after=strange) == []
    await filled.mark_published([strange])
    await filled.set_speeds({strange: (1.0, False)})
    assert (await filled.user_statistics("ann")).accepted == 7


@pytest.mark.parametrize("strange", STRANGE, ids=range(len(STRANGE)))
async def test_it_is_a_nonce_like_any_other(store: Store, strange: str) -> None:
    assert await store.use_nonce("ann", strange, 4e9)
    assert not await store.use_nonce("ann", strange, 4e9)
    assert await store.use_nonce(strange, "nonce", 4e9)
    assert not await store.use_nonce(strange, "nonce", 4e9)
