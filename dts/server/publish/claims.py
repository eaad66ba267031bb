"""Claims of the blocks that this process is publishing: taken with the block's insert, extended until it is settled.

Who claims a block publishes it, and nobody else does meanwhile, however slow store, broker or machine are. A process
that dies stops extending, and its blocks are free when their claims end. One that was stopped past a claim's end asks
before it publishes: a claim that another process has taken since is lost, and so is the work on that block.
"""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections.abc import Iterable, Sequence
from contextlib import suppress

from dts.errors import StoreUnavailable
from dts.model import Claim
from dts.runtime.service import Service
from dts.store import Store

logger = logging.getLogger(__name__)

_LOOKS = 3
"""Extensions in the length of a claim: two may fail before it ends."""

_AT_ONCE = 1000  # blocks whose claims are extended in one call


class Claims(Service):
    """The claims of one process, each for `seconds` from when it was taken or extended last."""

    def __init__(self, store: Store, seconds: float) -> None:
        super().__init__()
        self._store = store
        self._seconds = seconds
        self._until: dict[str, float] = {}  # monotonic seconds
        self._released: list[str] = []
        self._due = asyncio.Event()
        self.holder = uuid.uuid4().hex

    async def _start(self) -> None:
        self._spawn(self._keep(), "claims")
        self._stack.push_async_callback(self._release)

    def new(self) -> Claim:
        """A claim to be taken now."""
        return Claim(self.holder, self._seconds)

    def hold(self, block_ids: Iterable[str], claim: Claim) -> None:
        """Keep blocks claimed, which `claim` has taken, until they are settled or released."""
        self._until.update(dict.fromkeys(block_ids, claim.taken + claim.seconds))

    def settle(self, block_ids: Iterable[str]) -> None:
        """Keep blocks no longer: the store says that they are published, and nobody claims them."""
        for block_id in block_ids:
            self._until.pop(block_id, None)

    def release(self, block_ids: Iterable[str]) -> None:
        """Leave blocks to whoever claims them next; soon, or when their claims end."""
        ids = list(block_ids)
        self.settle(ids)
        self._released += ids
        self._due.set()

    async def sure_of(self, block_ids: Sequence[str]) -> set[str]:
        """Those of the blocks that this process may publish now: with time enough, or by asking the store.

        Raises:
            StoreUnavailable: nobody can tell.
        """
        late = time.monotonic() + self._seconds / _LOOKS
        await self._extend([each for each in block_ids if self._until.get(each, 0.0) < late])
        return {each for each in block_ids if each in self._until}

    async def flush(self) -> None:
        """Give back now what was released; what the store does not take ends by itself."""
        with suppress(StoreUnavailable):
            await self._release()

    async def _keep(self) -> None:
        while True:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._due.wait(), self._seconds / _LOOKS)
            try:
                await self._release()
                soon = time.monotonic() + self._seconds * (_LOOKS - 1) / _LOOKS
                await self._extend([each for each, until in self._until.items() if until < soon])
            except StoreUnavailable as error:
                logger.warning("claims of %d blocks are not extended now: %s", len(self._until), error)

    async def _release(self) -> None:
        self._due.clear()
        released, self._released = self._released, []  # those that the store does not answer for end by themselves
        if released:
            await self._store.release_claims(released, self.holder)

    async def _extend(self, block_ids: Sequence[str]) -> None:
        for start in range(0, len(block_ids), _AT_ONCE):
            some, claim = block_ids[start : start + _AT_ONCE], self.new()
            kept = set(await self._store.extend_claims(some, claim))
            for each in some:
                if each not in kept:
                    if self._until.pop(each, None) is not None:
                        logger.info("block %s is published by another process, since its claim ended here", each)
                elif each in self._until:  # else it was settled meanwhile
                    self._until[each] = claim.taken + claim.seconds
