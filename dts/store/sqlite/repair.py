"""What a SQLite store does with blocks whose messages may have been lost."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from sqlite3 import Connection

from dts.embedded.thread import DatabaseThread
from dts.model import Outcome, bitmap
from dts.store.abc import Store
from dts.store.contract.shared import storable
from dts.store.sqlite.rows import AMONG, OUTCOME, listed, outcome_from

_PUBLISHED = f"""
    SELECT {OUTCOME} FROM blocks INDEXED BY blocks_published
    WHERE function = ? AND count > succeeded + failed + cancelled AND published AND held = 0
        AND created < ? AND leased_until <= ? AND id > ?
    ORDER BY id LIMIT ?
"""
_DELAYED = f"""
    SELECT block, jobs, released FROM delayed INDEXED BY delayed_of_block WHERE fired IS NULL AND block {AMONG}
"""
_LEASED = f"SELECT block, job FROM leases WHERE +expires IS NOT NULL AND block {AMONG}"  # by block, that is
_CLAIM = "UPDATE blocks SET leased_until = ?, claimant = ? WHERE id = ? AND published AND leased_until <= ?"


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

    async def claim_published(self, seconds: Mapping[str, float], holder: str) -> list[str]:
        return await self._writer.submit(lambda db: _claim(db, seconds, holder), durable=False) if seconds else []

    async def waiting_jobs(self, block_ids: Sequence[str], *, leased: bool = True) -> dict[str, int]:
        return await self._reader.submit(lambda db: _waiting(db, listed(block_ids), leased=leased))


def _claim(db: Connection, seconds: Mapping[str, float], holder: str) -> list[str]:
    now = time.time()
    return [
        block
        for block, lease in seconds.items()
        if db.execute(_CLAIM, (now + lease, holder, storable(block), now)).rowcount == 1
    ]


def _waiting(db: Connection, blocks: str, *, leased: bool) -> dict[str, int]:
    found: defaultdict[str, int] = defaultdict(int)
    for block, jobs, released in db.execute(_DELAYED, (blocks,)):
        found[block] |= bitmap.from_bytes(jobs) | (bitmap.from_bytes(released) if leased else 0)
    for block, job in db.execute(_LEASED, (blocks,)) if leased else ():
        found[block] |= 1 << job
    return dict(found)
