"""What became of several blocks, asked for at once."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from dts.model import Outcome
from dts.store import Store


async def outcomes_of(store: Store, block_ids: Iterable[str]) -> dict[str, Outcome]:
    """The outcomes of blocks, each asked for once; those that are not in the store are left out.

    Raises:
        StoreUnavailable: the store does not answer.
    """
    found = await asyncio.gather(*(store.get_outcome(block_id) for block_id in dict.fromkeys(block_ids)))
    return {outcome.block: outcome for outcome in found if outcome is not None}
