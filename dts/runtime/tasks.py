"""Tasks that are ended, and waited for, on every way out.

asyncio refers to its tasks weakly: one that nobody waits for any more is collected while it is pending, and asyncio
then complains about it on stderr.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any


async def end_tasks(tasks: Iterable[asyncio.Task[Any]]) -> None:
    """Cancel tasks and return when all have ended, whatever they came to."""
    left = [task for task in tasks if not task.done()]
    for task in left:
        task.cancel()
    if left:
        await asyncio.gather(*left, return_exceptions=True)


async def wait_first(*awaited: asyncio.Event | asyncio.Future[Any], timeout: float | None = None) -> None:
    """Return when one of some events is set or one of some futures is done, after `timeout` seconds at the latest.

    The futures stay as they are.
    """
    waits = [asyncio.create_task(each.wait()) for each in awaited if isinstance(each, asyncio.Event)]
    futures = [each for each in awaited if isinstance(each, asyncio.Future)]
    try:
        await asyncio.wait([*waits, *futures], timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
    finally:
        await end_tasks(waits)
