"""What a SQLite store does with blocks, in SQL. Each function runs in a transaction that its caller makes."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from sqlite3 import Connection

from dts.errors import BlockConflict
from dts.model import Backlog, Block, Claim, Outcome, Run, Unsent
from dts.store.contract.backlog import GRACE
from dts.store.contract.shared import check_in_time, storable
from dts.store.sqlite.rows import BLOCK, OUTCOME, RUN, block_from, block_row, marks, outcome_from, run_row

# SQLite uses a partial index only where it finds the index's condition again, term by term; INDEXED BY makes it fail
# rather than read every block if somebody changes one of the two.
_WAITS = "NOT published AND count > succeeded + failed + cancelled AND held = 0 AND due <= ?1 AND leased_until <= ?2"
_BACKLOG = f"""
    SELECT iif(single, '', run) AS leaf, user, function, sum(count - sent), priority, weight, count(*), min(due)
    FROM blocks INDEXED BY blocks_unpublished WHERE {_WAITS} GROUP BY leaf, user, function, priority, weight
"""
_OF_RUN = f"""
    SELECT sent, {OUTCOME} FROM blocks INDEXED BY blocks_unpublished_of_run
    WHERE {_WAITS} AND run = ?3 AND function = ?5 AND priority IS ?6 ORDER BY number LIMIT ?7
"""
_SINGLE = f"""
    SELECT sent, {OUTCOME} FROM blocks INDEXED BY blocks_unpublished_single
    WHERE {_WAITS} AND single AND user = ?4 AND function = ?5 AND priority IS ?6 ORDER BY due LIMIT ?7
"""
_FOLLOW_RUN = """
    UPDATE blocks SET priority = runs.priority, weight = runs.weight FROM runs WHERE blocks.id = ?1 AND runs.id = ?2
        AND (blocks.priority IS NOT runs.priority OR blocks.weight <> runs.weight)
"""
"""Its run may have changed since its request was let in."""


def add_blocks(db: Connection, blocks: Sequence[Block], run: Run | None, claim: Claim | None) -> list[bool]:
    """Add blocks and their run; which of them are new. None is added if one comes too late."""
    if run is not None:
        db.execute(f"INSERT INTO runs ({RUN}) VALUES ({marks(RUN)}) ON CONFLICT DO NOTHING", run_row(run))
    claimed = ("", 0.0) if claim is None else (claim.holder, time.time() + claim.seconds)
    added = [_add_block(db, block, *claimed) for block in blocks]
    _check_in_time(db, {block.run for block, new in zip(blocks, added, strict=True) if new}, run)
    return added


def _check_in_time(db: Connection, runs: Iterable[str], brought: Run | None) -> None:
    for run in runs:
        row = db.execute("SELECT state, finished > 0 FROM runs WHERE id = ?", (run,)).fetchone()
        state, finished = row or (None, False)
        check_in_time(run, state, finished=finished, brought=brought is not None and brought.id == run)


def _add_block(db: Connection, block: Block, claimant: str, leased_until: float) -> bool:
    added = db.execute(
        f"INSERT INTO blocks ({BLOCK}, due, claimant, leased_until, held) VALUES ({marks(BLOCK)}, ?, ?, ?, "
        "coalesce((SELECT paused OR state = 'cancelled' FROM runs WHERE id = ?), 0)) ON CONFLICT (id) DO NOTHING",
        (*block_row(block), max(block.created, block.not_before), claimant, leased_until, block.run),
    )
    if added.rowcount:
        if not block.single:
            db.execute(_FOLLOW_RUN, (block.id, block.run))
        db.execute("INSERT INTO bodies (block, body) VALUES (?, ?)", (added.lastrowid, block.body))
        return True
    (digest,) = db.execute("SELECT digest FROM blocks WHERE id = ?", (block.id,)).fetchone()
    if digest != block.digest:
        raise BlockConflict(f"a different block {block.number} of run {block.run} is stored already")
    return False


def get_block(db: Connection, block_id: str) -> Block | None:
    """The block of that id."""
    row = db.execute(
        f"SELECT {BLOCK}, body FROM blocks JOIN bodies ON bodies.block = key WHERE id = ?", (block_id,)
    ).fetchone()
    return block_from(row[:-1], row[-1]) if row else None


def list_blocks(db: Connection, run_id: str, limit: int, after: int) -> list[Outcome]:
    """Outcomes of a run's blocks by number."""
    rows = db.execute(
        f"SELECT {OUTCOME} FROM blocks WHERE run = ? AND number > ? ORDER BY number LIMIT ?", (run_id, after, limit)
    )
    return [outcome_from(row) for row in rows]


def mark_published(db: Connection, block_ids: Sequence[str]) -> None:
    """Note that the broker has confirmed these blocks, and that whoever claimed them is done."""
    db.executemany(
        "UPDATE blocks SET published = 1, leased_until = 0, claimant = '' WHERE id = ?",
        [(block_id,) for block_id in block_ids],
    )


def backlog(db: Connection) -> list[Backlog]:
    """What waits to be published, by run and function."""
    return [Backlog(*row) for row in db.execute(_BACKLOG, _now())]


def backlog_blocks(db: Connection, rows: Sequence[tuple[Backlog, int]]) -> list[list[Unsent]]:
    """The first blocks of rows of the backlog, so many of each."""
    return [_first_blocks(db, row, limit) for row, limit in rows]


def _first_blocks(db: Connection, row: Backlog, limit: int) -> list[Unsent]:
    values = (*_now(), storable(row.run), storable(row.user), storable(row.function), row.priority, limit)
    found = db.execute(_OF_RUN if row.run else _SINGLE, values)
    return [Unsent(outcome_from(each), sent) for sent, *each in found]


def _now() -> tuple[float, float]:
    """The time until which a block in the backlog is due, and the one at which the last claim of it has ended."""
    now = time.time()
    return now, now - GRACE


def note_sent(db: Connection, sent: Mapping[str, int]) -> None:
    """Note how many jobs of blocks are published."""
    rows = [(count, block) for block, count in sent.items()]
    db.executemany("UPDATE blocks SET sent = max(sent, ?) WHERE id = ?", rows)


def extend(db: Connection, block_ids: Sequence[str], claim: Claim) -> list[str]:
    """Extend claims of a holder that have not ended; the ids of their blocks."""
    update = "UPDATE blocks SET leased_until = ? WHERE id = ? AND claimant = ? AND leased_until > ? AND NOT published"
    now = time.time()
    until = now + claim.seconds
    return [block for block in block_ids if db.execute(update, (until, block, claim.holder, now)).rowcount == 1]


def release(db: Connection, block_ids: Sequence[str], holder: str) -> None:
    """End claims of a holder."""
    update = "UPDATE blocks SET leased_until = 0, claimant = '' WHERE id = ? AND claimant = ?"
    db.executemany(update, [(block_id, holder) for block_id in block_ids])
