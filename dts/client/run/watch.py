"""Asks the server now and then how a run gets on, and says why when no results come."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable

from dts.client.run.explain import held_up_by, reasons
from dts.client.run.state import RunState
from dts.errors import ClientError

logger = logging.getLogger(__name__)

LOOK_INTERVAL = 5.0
"""Seconds between two looks, and without results after which the reason is said."""

_REMINDER = 60.0  # seconds after which a reason is said again, or another one


class Watch:
    """Keeps what the server says of a run in its progress; `notify` gets a sentence when no results come."""

    def __init__(self, state: RunState, notify: Callable[[str], None]) -> None:
        self._state = state
        self._notify = notify
        self._said_at = -_REMINDER

    async def watch(self) -> None:
        """Look again and again, until cancelled."""
        while True:
            await asyncio.sleep(LOOK_INTERVAL)
            await self._look()

    async def _look(self) -> None:
        progress = self._state.progress
        try:
            run = await self._state.remote.view(once=True)
        except ClientError as error:  # the run's own requests say so when it matters
            logger.info("the run %s was not looked at: %s", progress.run, error)
            return
        progress.counts, progress.waiting = run["statistics"], held_up_by(run)
        found = reasons(run)
        now = time.monotonic()
        quiet = now - progress.arrived
        if found and self._state.outstanding.blocks and quiet >= LOOK_INTERVAL and now - self._said_at >= _REMINDER:
            self._said_at = now
            self._notify(f"no results for {quiet:.0f} s: {'; '.join(found)}")
