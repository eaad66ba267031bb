"""Does what is to follow when a run has finished, and finishes runs that a process left which died.

A run with `follow_up` is given to every follower until all of them have returned: at least once, by any number of
timekeepers at the same time. So a follower derives the ids of what it makes from the run's id, and a second call makes
nothing new.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence

from dts.errors import BrokerUnavailable, StoreUnavailable
from dts.model import Run
from dts.store import Store

Follower = Callable[[Run], Awaitable[None]]

logger = logging.getLogger(__name__)

_RUNS = 100  # that are followed up at once
_LEFT = 1000
"""Unfinished runs that one call of `finish_left` looks at: a few ms of MongoDB's time, however many there are."""


class FinishedRuns:
    """Calls the followers for each finished run that something is to follow."""

    def __init__(self, store: Store, followers: Sequence[Follower]) -> None:
        self._store, self._followers = store, followers
        self._place = ""

    async def follow_up(self) -> None:
        """Call the followers for runs that have finished, the first to finish first.

        A run for which one fails is tried again by the next call and keeps no other run waiting.

        Raises:
            StoreUnavailable, BrokerUnavailable: the next call goes on.
        """
        after = (0.0, "")
        while runs := await self._store.runs_to_follow_up(after=after, limit=_RUNS):
            await self._store.note_followed_up([run.id for run in runs if await self._call(run)])
            last = runs[-1]
            after = (last.finished.time if last.finished else 0.0, last.id)

    async def _call(self, run: Run) -> bool:
        for follower in self._followers:
            try:
                await follower(run)
            except (StoreUnavailable, BrokerUnavailable):
                raise
            except Exception:
                logger.exception("what follows the end of run %s has failed; DTS tries again in some seconds", run.id)
                return False
        return True

    async def finish_left(self) -> list[str]:
        """Look at some unfinished runs, from where the last call has stopped; the ids of those that have finished.

        Raises:
            StoreUnavailable: the store does not answer.
        """
        finished, self._place = await self._store.finish_left_runs(after=self._place, limit=_LEFT)
        return finished
