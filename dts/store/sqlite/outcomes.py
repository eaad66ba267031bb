"""What a SQLite store does with outcomes, in SQL. Each function runs in a transaction that its caller makes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from sqlite3 import Connection

from dts.model import Candidate, Merge, Outcome, Part, bitmap, merge
from dts.store.contract.results import JobPlace
from dts.store.contract.shared import Page, by_block, job_ids, jobs_in_block, take_jobs
from dts.store.sqlite.rows import AMONG, OUTCOME, PART, listed, outcome_from, part_from


def record(db: Connection, candidates: Sequence[Candidate]) -> list[int | None]:
    """Merge candidates into the outcomes of their blocks; the jobs that each of them ended."""
    accepted: list[int | None] = [None] * len(candidates)
    for block, positions in by_block(candidates).items():
        row = db.execute(f"SELECT key, {OUTCOME} FROM blocks WHERE id = ?", (block,)).fetchone()
        if row is None:
            continue
        merged = merge(outcome_from(row[1:]), (candidates[position] for position in positions))
        if merged.changed:
            _write_merge(db, row[0], merged)
        for position, jobs in zip(positions, merged.accepted, strict=True):
            accepted[position] = jobs
    return accepted


def _write_merge(db: Connection, key: int, merged: Merge) -> None:
    after = merged.after
    fresh = after.ended & ~merged.before.ended
    db.execute(
        "UPDATE blocks SET ended = ?, running = ?, succeeded = ?, failed = ?, cancelled = ?, at_work = ?, parts = ?, "
        "uncollected = uncollected + ? WHERE key = ?",
        (
            bitmap.to_bytes(after.ended, after.count),
            bitmap.to_bytes(after.running, after.count),
            after.succeeded,
            after.failed,
            after.cancelled,
            after.running.bit_count(),
            after.parts,
            fresh.bit_count(),
            key,
        ),
    )
    db.executemany(
        "INSERT INTO parts (block, number, count, size, jobs_offset, jobs, content_encoding, body) "
        "VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        [
            (
                key,
                part.number,
                part.jobs.bit_count(),
                len(part.body),
                *bitmap.to_window(part.jobs),
                part.content_encoding,
                part.body,
            )
            for part in merged.parts
        ],
    )


def get_outcome(db: Connection, block_id: str) -> Outcome | None:
    """What became of a block so far."""
    row = db.execute(f"SELECT {OUTCOME} FROM blocks WHERE id = ?", (block_id,)).fetchone()
    return outcome_from(row) if row else None


def get_parts(db: Connection, block_id: str) -> list[Part]:
    """All parts of a block by number."""
    rows = db.execute(
        f"SELECT {PART} FROM parts WHERE block = (SELECT key FROM blocks WHERE id = ?) ORDER BY number", (block_id,)
    )
    return [part_from(block_id, row) for row in rows]


def uncollected_parts(db: Connection, run_id: str, max_jobs: int) -> list[Part]:
    """A page of a run's parts that are not collected."""
    page = Page(max_jobs)
    parts: list[Part] = []
    blocks = db.execute(
        "SELECT key, id, collected FROM blocks WHERE run = ? AND uncollected > 0 ORDER BY number", (run_id,)
    )
    for key, block_id, collected in blocks:
        done = bitmap.from_bytes(collected)
        rows = db.execute("SELECT number, count, size, rowid FROM parts WHERE block = ? ORDER BY number", (key,))
        for number, count, size, rowid in rows:
            if done >> number & 1:
                continue
            if not page.take(count, size):
                return parts
            row = db.execute(f"SELECT {PART} FROM parts WHERE rowid = ?", (rowid,)).fetchone()
            parts.append(part_from(block_id, row))
    return parts


def uncollected_counts(db: Connection, run_ids: Sequence[str]) -> dict[str, int]:
    """How many ended jobs of runs are not collected."""
    rows = db.execute(
        f"SELECT run, sum(uncollected) FROM blocks WHERE run {AMONG} AND uncollected > 0 GROUP BY run",
        (listed(run_ids),),
    )
    return dict(rows.fetchall())


def collect(db: Connection, run_id: str, receipts: Mapping[int, set[int]]) -> int:
    """Mark parts as collected, given by block number; how many jobs they hold."""
    return sum(_collect_of_block(db, run_id, number, parts) for number, parts in receipts.items())


def _collect_of_block(db: Connection, run_id: str, number: int, parts: set[int]) -> int:
    row = db.execute(
        "SELECT key, collected, taken, parts FROM blocks WHERE run = ? AND number = ? AND uncollected > 0",
        (run_id, number),
    ).fetchone()
    if row is None:
        return 0
    key, collected, taken, existing = row
    done = bitmap.from_bytes(collected)
    fresh = bitmap.from_indices(part for part in parts if part < existing) & ~done
    if taken:
        left = ~bitmap.from_bytes(taken)
        jobs = sum((of_part & left).bit_count() for part, of_part in _jobs_of_parts(db, key) if fresh >> part & 1)
    else:
        counts = db.execute("SELECT number, count FROM parts WHERE block = ?", (key,))
        jobs = sum(count for part, count in counts if fresh >> part & 1)
    if jobs:
        db.execute(
            "UPDATE blocks SET collected = ?, uncollected = uncollected - ? WHERE key = ?",
            (bitmap.to_bytes(done | fresh, existing), jobs, key),
        )
    return jobs


def collect_jobs(db: Connection, user: str, numbers: Mapping[str, Sequence[int]]) -> int:
    """Mark jobs of a user as collected, given by run; how many."""
    collected = 0
    for run, of_run in numbers.items():
        blocks = db.execute(
            "SELECT key, first, count, collected, taken FROM blocks WHERE user = ? AND run = ? AND uncollected > 0",
            (user, run),
        ).fetchall()
        for key, first, count, *before in blocks:
            if asked := jobs_in_block(of_run, first, count):
                collected += _take_from_block(db, key, asked, *map(bitmap.from_bytes, before))
    return collected


def _take_from_block(db: Connection, key: int, asked: int, done: int, taken: int) -> int:
    pending = {part: jobs for part, jobs in _jobs_of_parts(db, key) if not done >> part & 1}
    fresh, complete = take_jobs(asked, taken, pending)
    if fresh:
        done, taken = done | bitmap.from_indices(complete), taken | fresh
        db.execute(
            "UPDATE blocks SET collected = ?, taken = ?, uncollected = uncollected - ? WHERE key = ?",
            (*(bitmap.to_bytes(each, each.bit_length()) for each in (done, taken)), fresh.bit_count(), key),
        )
    return fresh.bit_count()


def _jobs_of_parts(db: Connection, key: int) -> Iterator[tuple[int, int]]:
    """The parts of a block by number, each with the bitmap of its jobs."""
    rows = db.execute("SELECT number, jobs_offset, jobs FROM parts WHERE block = ? ORDER BY number", (key,))
    return ((number, bitmap.from_window(offset, jobs)) for number, offset, jobs in rows)


def retrievables(db: Connection, user: str, limit: int, after: JobPlace) -> list[str]:
    """Ids of a user's jobs that have ended and are not collected."""
    ids: list[str] = []
    blocks = db.execute(
        "SELECT key, run, first, collected, taken FROM blocks INDEXED BY blocks_uncollected "
        "WHERE user = ? AND uncollected > 0 AND (run, number) >= (?, ?) ORDER BY run, number",
        (user, after.run, after.block),
    )
    for key, run, first, collected, taken in blocks:
        if len(ids) >= limit:
            break
        done, left = bitmap.from_bytes(collected), ~bitmap.from_bytes(taken)
        pending = (jobs & left for part, jobs in _jobs_of_parts(db, key) if not done >> part & 1)
        ids.extend(job_ids(run, first, pending, after.number + 1 if run == after.run else 0))
    return ids[:limit]
