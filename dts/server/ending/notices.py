"""Tells workers which runs and jobs are cancelled, and servers that there are results; again, since events get lost."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from dts.broker import Broker
from dts.store import Store
from dts.wire.queues import TOPIC_CANCELLED, TOPIC_RESULTS

_IDS = 100  # in one event


REMEMBER = 24 * 3600.0
"""Seconds for which workers that come back are told of a cancellation."""


_OVERLAP = 60.0
"""Seconds in which a server's connection to the broker may be away while another process has one."""


MOST_REMEMBERED = 10_000
"""Cancellations that such a worker is told of at most, the latest."""


async def announce_cancelled(broker: Broker, ids: Sequence[str]) -> bool:
    """Tell the workers which runs and jobs are cancelled; False if the broker is away."""
    for start in range(0, len(ids), _IDS):
        if not await broker.broadcast(TOPIC_CANCELLED, " ".join(ids[start : start + _IDS])):
            return False
    return True


async def recently_cancelled(store: Store) -> list[str]:
    """Ids of the runs and jobs that were cancelled lately, for a worker that has just come."""
    since = store.now() - REMEMBER
    runs = await store.cancelled_runs(since, limit=MOST_REMEMBERED)
    jobs = await store.recently_cancelled(since, limit=MOST_REMEMBERED)
    return runs[::-1] + jobs


class Reminder:
    """Tells the workers again what was cancelled lately, since whoever cancelled it may not have been able to."""

    def __init__(self, store: Store, broker: Broker) -> None:
        self._store, self._broker = store, broker
        self._told_until = 0.0

    async def remind(self) -> None:
        """Tell of the latest cancellations, and of all since shortly before this was last possible.

        Raises:
            StoreUnavailable: the store does not answer.
        """
        now = self._store.now()
        since = max(now - REMEMBER, self._told_until - _OVERLAP)
        ids = {
            **dict.fromkeys(await self._store.cancelled_runs(since, limit=MOST_REMEMBERED)),
            **dict.fromkeys(await self._store.cancelled_runs(now - REMEMBER, limit=_IDS)),
            **dict.fromkeys(await self._store.recently_cancelled(since, limit=MOST_REMEMBERED)),
            **dict.fromkeys(await self._store.recently_cancelled(now - REMEMBER, limit=_IDS)),
        }
        if await announce_cancelled(self._broker, list(ids)):
            self._told_until = now


async def announce_results(broker: Broker, run_ids: Iterable[str]) -> None:
    """Tell the servers that there are results of runs."""
    ids = sorted(run_ids)
    for start in range(0, len(ids), _IDS):
        await broker.broadcast(TOPIC_RESULTS, " ".join(ids[start : start + _IDS]))
