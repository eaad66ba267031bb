"""What a SQLite store does with blocks whose messages may have been lost."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from sqlite3 import Connection

from dts.model import Outcome, bitmap
from dts.store.abc import Store
from dts.store.shared import storable
from dts.store.sqlite_rows import OUTCOME, outcome_from
from dts.store.sqlite_thread import DatabaseThread

_PUBLISHED = f"""
    SELECT {", ".join(f"blocks.{column}" for column in OUTCOME.split(", "))}
    FROM blocks INDEXED BY blocks_unfinished LEFT JOIN runs ON runs.id = blocks.run
    WHERE blocks.function = ? AND count > succeeded + failed + cancelled AND published
        AND blocks.created < ? AND leased_until <= ? AND blocks.id > ?
        AND coalesce(NOT runs.paused AND runs.state <> 'cancelled', 1)
    ORDER BY blocks.id LIMIT ?
"""
_CLAIM = "UPDATE blocks SET leased_until = ? WHERE id = ? AND published AND leased_until <= ?"


class SqliteRepairStore(Store):
    """The part of a SQLite store that is about lost messages. Not a store by itself."""

    _writer: DatabaseThread
    _reader: DatabaseThread

    async def published_blocks(
        self, *, function: str, older_than: float, limit: int = 100, after: str = ""
    ) -> list[Outcome]:
        values = (storable(function), older_than, time.time(), storable(after), limit)
        rows = await self._reader.submit(lambda db: db.execute(_PUBLISHED, values).fetchall())
        return [outcome_from(row) for row in rows]

    async def claim_published(self, seconds: Mapping[str, float]) -> list[str]:
        return await self._writer.submit(lambda db: _claim(db, seconds), durable=False) if seconds else []

    async def waiting_jobs(self, block_ids: Sequence[str]) -> dict[str, int]:
        return await self._reader.submit(lambda db: _waiting(db, [storable(each) for each in block_ids]))


def _claim(db: Connection, seconds: Mapping[str, float]) -> list[str]:
    now = time.time()
    return [
        block
        for block, lease in seconds.items()
        if db.execute(_CLAIM, (now + lease, storable(block), now)).rowcount == 1
    ]


def _waiting(db: Connection, blocks: Sequence[str]) -> dict[str, int]:
    among = ", ".join("?" for _ in blocks)
    found: defaultdict[str, int] = defaultdict(int)
    delayed = f"SELECT block, jobs, released FROM delayed WHERE fired IS NULL AND block IN ({among})"
    for block, jobs, released in db.execute(delayed, blocks):
        found[block] |= bitmap.from_bytes(jobs) | bitmap.from_bytes(released)
    leased = f"SELECT block, job FROM leases WHERE expires IS NOT NULL AND block IN ({among})"
    for block, job in db.execute(leased, blocks):
        found[block] |= 1 << job
    return dict(found)
