"""Records for tests, with every field that a test does not care about filled in."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterable

from dts.model import Block, Candidate, Run, RunState, Unsent, bitmap, block_id, new_id
from dts.store import Store


def make_run(user: str = "ann", *, block_size: int = 8, created: float | None = None, **fields: object) -> Run:
    """A run of a user."""
    state = fields.pop("state", RunState.OPEN)
    assert isinstance(state, RunState)
    paused = bool(fields.pop("paused", False))
    run_id = str(fields.pop("id", None) or new_id())
    single = bool(fields.pop("single", False))
    assert not fields, fields
    at = time.time() if created is None else created
    return Run(run_id, user, "text/upper", block_size, state, paused, at, single=single)


def make_block(
    run: Run, number: int = 0, *, count: int | None = None, body: bytes = b"jobs", created: float | None = None
) -> Block:
    """Block `number` of a run, full unless `count` says otherwise."""
    return Block(
        id=block_id(run.id, number),
        run=run.id,
        number=number,
        first=number * run.block_size,
        user=run.user,
        function="text/upper",
        count=run.block_size if count is None else count,
        body=body,
        content_encoding="",
        digest=hashlib.sha256(body).digest(),
        created=time.time() if created is None else created,
    )


def succeeded(block: Block, indices: Iterable[int], body: bytes = b"results") -> Candidate:
    """A candidate that says that these jobs succeeded."""
    return Candidate(block.id, body, "", succeeded=bitmap.from_indices(indices))


def failed(block: Block, indices: Iterable[int], body: bytes = b"failures") -> Candidate:
    """A candidate that says that these jobs failed."""
    return Candidate(block.id, body, "", failed=bitmap.from_indices(indices))


def cancelled(block: Block, indices: Iterable[int], body: bytes = b"cancelled") -> Candidate:
    """A candidate that says that these jobs were cancelled."""
    return Candidate(block.id, body, "", cancelled=bitmap.from_indices(indices))


def at_work(block: Block, indices: Iterable[int]) -> Candidate:
    """A candidate that says that these jobs are running."""
    return Candidate(block.id, running=bitmap.from_indices(indices))


def jobs(*indices: int) -> int:
    """The bitmap of these jobs."""
    return bitmap.from_indices(indices)


async def backlog_of(store: Store, *runs: str, limit: int = 100) -> list[Unsent]:
    """What is in the backlog of some runs, or of all; so many blocks of each at most."""
    rows = [row for row in await store.backlog() if not runs or row.run in runs]
    found = await store.backlog_blocks([(row, limit) for row in rows])
    return [each for blocks in found for each in blocks]
