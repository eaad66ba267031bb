"""How many jobs of those who share a limit are with the broker or at work."""

from __future__ import annotations

from collections.abc import Sequence

from dts.model import ALL_ROUTES
from dts.server.access.parties import Subject
from dts.store import Store


async def in_flight(store: Store, subject: Subject, blocks: Sequence[str] | None = None) -> dict[str, int]:
    """How many jobs of a user, namespace, function or route are in flight, by block; of some blocks, or of all.

    Raises:
        StoreUnavailable: nobody knows.
    """
    if subject.kind != "route":
        return await store.jobs_in_flight(**{subject.kind: subject.id}, blocks=blocks)
    found: dict[str, int] = {}
    for function in await store.list_functions():
        if subject.id in (function.route, ALL_ROUTES):
            found |= await store.jobs_in_flight(function=function.name, blocks=blocks)
    return found
