"""Notices a worker that is alive and takes nothing: a child is free, messages wait, and none comes."""

from __future__ import annotations

import logging

from dts.errors import BrokerError
from dts.model.fleet import STALLED
from dts.worker.worker import Worker

logger = logging.getLogger(__name__)

STALLED_AFTER = 15.0
"""Seconds. A wake-up that is lost is made up for within a second, and a broker that comes back within a few."""


class StallCheck:
    """Checks a worker whenever it is asked to."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self._since: float | None = None
        self._logged = False

    async def check(self, now: float) -> str:
        """What to report of the worker at a time (monotonic, seconds); empty while it takes what it can."""
        waiting = await self._waiting()
        if not waiting:
            if self._logged:
                logger.info("messages are taken again, or none waits any more")
            self._since, self._logged = None, False
            return ""
        began = self._since = now if self._since is None else self._since
        seconds = now - max(began, self._worker.deliveries.last_taken)
        if seconds < STALLED_AFTER:
            return ""
        if not self._logged:
            self._logged = True
            logger.error(
                "children are free and %d messages wait on the routes %s, but none was taken for %.0f s: closing the"
                " consumers and opening them again",
                *(waiting, " ".join(self._worker.routes.names), seconds),
            )
        return f"{STALLED}: children are free, messages wait, nothing taken for {seconds:.0f} s"

    async def _waiting(self) -> int:
        """How many messages wait that it could take now."""
        worker = self._worker
        if worker.halted or worker.draining or worker.versions.is_preparing or not worker.executor.has_idle_child:
            return 0
        try:
            return await worker.routes.depth(limited=False)
        except BrokerError:
            return 0  # the broker is away, which others report
