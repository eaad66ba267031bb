"""The timers of the process: one that a job leaves armed goes off in no other job."""

from __future__ import annotations

import functools
import signal
from collections.abc import Callable
from typing import Any

from dts.worker.child import current_job
from dts.worker.child.active_batch import ActiveBatch

_TIMERS = signal.ITIMER_REAL, signal.ITIMER_VIRTUAL, signal.ITIMER_PROF


class Alarms:
    """Notes by which jobs timers were set. What a module sets while it is imported is no job's, and goes on."""

    def __init__(self) -> None:
        self.armed: dict[tuple[ActiveBatch, int], None] = {}
        """Jobs that have set a timer and have not ended: their messages and positions."""
        self._set = signal.setitimer

    def install(self) -> None:
        """Have timers noted from here on, of all that calls the functions of the module `signal`."""
        for name in ("alarm", "setitimer"):
            setattr(signal, name, self._noted(getattr(signal, name)))

    def disarm(self, batch: ActiveBatch, position: int) -> None:
        """Cancel the timers if this job has set one."""
        if (batch, position) in self.armed:
            for timer in _TIMERS:
                self._set(timer, 0)
            del self.armed[batch, position]

    def _noted(self, original: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(original)
        def noted(*args: Any, **kwargs: Any) -> Any:
            batch, position = current_job.now()
            if batch is not None and position >= 0:
                self.armed[batch, position] = None
            return original(*args, **kwargs)

        return noted
