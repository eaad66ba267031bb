"""Claims of messages: taken, renewed and settled, by the consumers of one process."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from functools import partial
from itertools import count
from typing import Any

from dts.broker.sqlite import queue as queue_table
from dts.broker.sqlite.queue import Claim, Taken, Woken
from dts.embedded.thread import DatabaseThread, Operation

log = logging.getLogger(__name__)

SETTLE_RETRY = 1.0
"""Seconds until settling is tried again after the file could not be written."""

Settled = asyncio.Future[None]


class ClaimStore:
    """Claims and settles messages for the consumers of a process. Leases and limits are in seconds and hand-overs.

    `woken` gets the queues that messages go back to.
    """

    def __init__(self, thread: DatabaseThread, owner: str, woken: Woken, *, lease: float, delivery_limit: int) -> None:
        self._thread = thread
        self._owner = owner
        self._woken = woken
        self._lease = lease
        self._limit = delivery_limit
        self._numbers = count(1)
        self._closed = False

    def close(self) -> None:
        """Do not try again to settle what could not be settled."""
        self._closed = True

    def claim(self, queue: str, most: int) -> tuple[Callable[[int], Claim], asyncio.Future[list[Taken] | None]]:
        """Take up to `most` messages of a queue. Also returns what makes a message's id a claim."""
        number = next(self._numbers)
        run = partial(queue_table.claim, queue=queue, owner=self._owner, number=number, seconds=self._lease, most=most)
        taken: asyncio.Future[list[Taken] | None] = self._thread.submit(
            run, durable=False, needed=partial(queue_table.has_ready, queue=queue)
        )
        return partial(Claim, number=number, owner=self._owner), taken

    def ack(self, claims: Sequence[Claim]) -> Settled:
        """Remove messages. The future resolves when that is done, or will be tried again later."""
        return self._settle(partial(queue_table.ack, claims=claims))

    def give_back(self, claims: Sequence[Claim], unseen: Sequence[Claim] = ()) -> Settled:
        """Give messages back, of which `unseen` have not been handed out; like `ack`."""
        return self._settle(
            partial(queue_table.give_back, woken=self._woken, claims=claims, unseen=unseen, limit=self._limit)
        )

    def reject(self, claims: Sequence[Claim], reason: str) -> Settled:
        """Make messages dead letters; like `ack`."""
        run = partial(queue_table.reject, woken=self._woken, claims=claims, reason=reason)
        return self._settle(run, durable=True)

    async def renew(self) -> set[int]:
        """Renew the leases of this process; returns the ids of the messages that it still has."""
        run = partial(queue_table.extend, owner=self._owner, seconds=self._lease)
        kept = await self._thread.submit(run, durable=False, needed=partial(queue_table.has_any, owner=self._owner))
        return kept or set()

    async def expire(self, dead: Sequence[str]) -> None:
        """Give back what dead processes have, and those whose lease expired."""
        await self._thread.submit(
            partial(queue_table.expire, woken=self._woken, dead=dead, limit=self._limit),
            durable=False,
            needed=lambda db: bool(dead) or queue_table.has_expired(db),
        )

    def _settle(self, run: Operation[None], *, durable: bool = False) -> Settled:
        settled: Settled = asyncio.get_running_loop().create_future()
        done = self._thread.submit(run, durable=durable)
        done.add_done_callback(partial(self._settled, run, durable, settled))
        return settled

    def _settled(self, run: Operation[None], durable: bool, settled: Settled, done: asyncio.Future[Any]) -> None:
        if not settled.done():
            settled.set_result(None)
        error = done.exception()
        if error is None or self._closed:
            return
        # Until then the leases of these messages are renewed with all others: nobody else gets them.
        log.debug("messages not settled, will try again: %s", error)
        asyncio.get_running_loop().call_later(SETTLE_RETRY, self._settle_again, run, durable)

    def _settle_again(self, run: Operation[None], durable: bool) -> None:
        if not self._closed:
            self._settle(run, durable=durable)
