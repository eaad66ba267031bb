"""Limits by a key in the arguments: so many jobs at once, and so many starts a second, for each value of it.

`limits.key` of a function says where the value is: `kwargs.customer`, `args.0`, or deeper in it, such as
`kwargs.order.country`. Jobs that have nothing there are under no such limit.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Sequence

import msgspec
from cachetools import LRUCache

from dts.model import Limits, bitmap
from dts.server.publish.buckets import TokenBucket
from dts.server.publish.decoded import DecodedBlocks
from dts.server.record.blocks import outcomes_of
from dts.store import Store
from dts.wire import dts_pb2

_KNOWN = 10_000  # keys of which it is remembered when they began; and blocks whose keys are known
_NO_KEY = b""


def key_of(job: dts_pb2.Job, path: str) -> bytes:
    """The value under a path in a job's arguments, as JSON; nothing if there is none."""
    first, *names = path.split(".")
    value = msgspec.json.decode((job.kwargs or b"{}") if first == "kwargs" else (job.args or b"[]"))
    for name in names:
        if isinstance(value, dict) and name in value:
            value = value[name]
        elif isinstance(value, list) and name.isdecimal() and int(name) < len(value):
            value = value[int(name)]
        else:
            return _NO_KEY
    return msgspec.json.encode(value, order="deterministic")


class KeyLimits:
    """What may run by key. Of one process: the one that lets jobs go."""

    def __init__(self, store: Store, blocks: DecodedBlocks) -> None:
        self._store = store
        self._blocks = blocks
        self._keys: LRUCache[tuple[str, str], list[bytes]] = LRUCache(_KNOWN)
        self._buckets: LRUCache[tuple[str, bytes], TokenBucket] = LRUCache(_KNOWN)

    async def rooms(self, function: str, limits: Limits, blocks: Iterable[str]) -> KeyRooms:
        """How much room each key of a function has, of whose jobs those in flight are in `blocks`.

        Raises:
            StoreUnavailable: nobody knows.
        """
        at_work: Counter[bytes] = Counter()
        if limits.key_running is not None:
            outcomes = await outcomes_of(self._store, blocks)
            waiting = await self._store.waiting_jobs(list(outcomes), leased=False)
            for block, outcome in outcomes.items():
                keys = await self.of_block(block, limits)
                at_work.update(keys[job] for job in bitmap.indices(outcome.unfinished & ~waiting.get(block, 0)))
        return KeyRooms(function, limits, at_work, self._buckets)

    async def of_block(self, block: str, limits: Limits) -> Sequence[bytes]:
        """The keys of a block's jobs; of one that is gone, none."""
        name = block, limits.key or ""
        if (known := self._keys.get(name)) is None:
            found = await self._blocks.get(block)
            known = [key_of(job, name[1]) for job in found[1].jobs] if found is not None else []
            self._keys[name] = known
        return known


class KeyRooms:
    """Room by key, which gets less as jobs are chosen."""

    def __init__(
        self,
        function: str,
        limits: Limits,
        at_work: Counter[bytes],
        buckets: LRUCache[tuple[str, bytes], TokenBucket],
    ) -> None:
        self._function = function
        self._limits = limits
        self._at_work = at_work
        self._buckets = buckets
        self.wait = 1e9
        """Seconds until a key may begin another job that could not for its rate; very long if there is none."""

    def choose(self, keys: Sequence[bytes], jobs: int, most: int) -> int:
        """The first of some jobs, as bitmaps, that there is room for, so many at most."""
        chosen, now = 0, time.monotonic()
        for job in bitmap.indices(jobs):
            if most <= 0:
                break
            if job < len(keys) and self._take(keys[job], now):
                chosen |= 1 << job
                most -= 1
        return chosen

    def _take(self, key: bytes, now: float) -> bool:
        if key == _NO_KEY:
            return True
        if self._limits.key_running is not None and self._at_work[key] >= self._limits.key_running:
            return False
        if (rate := self._limits.key_starts_per_second) is not None:
            bucket = self._buckets.get((self._function, key))
            if bucket is None or bucket.rate != rate:
                bucket = self._buckets[self._function, key] = TokenBucket(rate)
            if not bucket.available(now):
                self.wait = min(self.wait, bucket.wait)
                return False
            bucket.take(1)
        self._at_work[key] += 1
        return True
