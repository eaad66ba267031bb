"""One process does what only one may do: it holds a lease in the store, and another takes over within seconds."""

from __future__ import annotations

import math
import time
import uuid

from dts.store import Store

_HELD = 8.0
_TRUSTED = 4.0
_RENEW = 2.0
"""Seconds for which the lease is held, for which the holder goes by that, and after which it makes sure: between the
first two there is time for a write that was begun while it did."""


class Leader:
    """This process as the leader of something, or not. `term` goes up whenever it becomes the leader."""

    def __init__(self, store: Store, name: str) -> None:
        self._store = store
        self._name = name
        self._me = uuid.uuid4().hex
        self._trusted_until = self._renew_at = -math.inf
        self.term = 0

    @property
    def is_sure(self) -> bool:
        """Whether this process is the leader for some seconds to come."""
        return time.monotonic() < self._trusted_until

    async def leads(self) -> bool:
        """Whether this process is the leader; asks the store now and then.

        Raises:
            StoreUnavailable: nobody can tell.
        """
        now = time.monotonic()
        if now >= self._renew_at:
            self._renew_at = now + _RENEW
            before = self._trusted_until
            if await self._store.acquire(self._name, self._me, seconds=_HELD):
                self.term += before < now
                self._trusted_until = now + _TRUSTED
            else:
                self._trusted_until = -math.inf
        return self.is_sure

    async def close(self) -> None:
        """Leave it to others.

        Raises:
            StoreUnavailable: they get it in some seconds.
        """
        if self._trusted_until > -math.inf:
            self._trusted_until = -math.inf
            await self._store.release(self._name, self._me)
