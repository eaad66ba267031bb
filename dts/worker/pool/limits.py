"""Kills children whose job has passed its hard limits: of time, of memory, of the grace after it was cancelled.

A job may pass its limit because another one holds it up: one that blocks the event loop which both share, or that has
left a thread behind which holds the interpreter's lock. So a job is blamed only if it is known to be the one; else each
that may be runs again alone.
"""

from __future__ import annotations

import asyncio
import logging
import time

from dts.runtime.service import Service
from dts.worker.attempt.retry_policy import REASON_MEMORY, REASON_TIMEOUT
from dts.worker.link.board import ENDED, MAX_JOBS, PENDING, STARTED, UNKNOWN, Phase
from dts.worker.link.procfs import processor_time, resident_size
from dts.worker.pool.child_process import REASON_CRASHED, ChildProcess, KillReason
from dts.worker.pool.crash import REASON_CANCELLED
from dts.worker.pool.executor import Executor
from dts.worker.pool.stuck import examine

logger = logging.getLogger(__name__)

INTERVAL = 0.05
"""Seconds between checks of the children."""

_SILENT = 0.5
"""Seconds without a run of its helper thread after which some thread of a child holds the interpreter's lock."""
_BUSY = 0.1
"""The part of its time for which a main thread has a processor if it is that thread; one that waits has far less."""
_LATE = "was killed because it ran longer than its timeout"

_MEMORY_SLACK = 32 * 1024 * 1024
"""Bytes over the limit at which the worker kills: a child that can, has got a MemoryError at the limit itself."""


class Guard(Service):
    """Checks the boards of all children every INTERVAL seconds."""

    def __init__(self, executor: Executor) -> None:
        super().__init__()
        self._executor = executor

    async def _start(self) -> None:
        self._spawn(self._run(), "guard")

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(INTERVAL)
            now = time.monotonic()
            for child in (*self._executor.children, *self._executor.leaving):
                self._check(child, now)

    def _check(self, child: ChildProcess, now: float) -> None:
        try:
            examine(child, now)
            if child.given and child.kill_reason is None and not child.garbled:
                reason = reason_to_kill(child, now)
                if reason is not None:
                    child.kill_for(reason)
        except Exception as error:
            logger.error("child %d cannot be watched, and is replaced", child.pid, exc_info=error)
            child.distrust(f"could not be watched ({error!r}), and was killed for that")


def reason_to_kill(child: ChildProcess, now: float) -> KillReason | None:
    """Why a child must be killed now, if it must."""
    board = child.board
    silent = is_silent(child, now)
    if board.phase is Phase.LOADING and 0 < board.loading_limit < now:
        # A thread left over from an earlier message may be blocking this import; in another child it may succeed.
        spared = silent and child.served and not child.at_work[0].alone
        return KillReason(REASON_CRASHED if spared else REASON_TIMEOUT, _LATE, ())
    if board.phase is not Phase.RUNNING:
        return None
    if board.timed:
        late = tuple(at for at in board.places(STARTED) if 0 < board.limits[at] < now)
        if late:
            return blame(child, late, now, silent=silent)
    if child.stop_by and (stubborn := _stubborn(child, now)):
        return KillReason(REASON_CANCELLED, "was killed because it was cancelled and did not end", tuple(stubborn))
    if board.memory_limit and resident_size(child.pid) > board.memory_limit + _MEMORY_SLACK:
        said = "was killed because it took more than its memory limit"
        return KillReason(REASON_MEMORY, said, tuple(board.places(STARTED)))
    return None


def is_silent(child: ChildProcess, now: float) -> bool:
    """Whether some thread of a child holds the interpreter's lock for long; begins to watch its main thread then."""
    board = child.board
    at_work = child.at_work
    since = max([board.beat, *(assignment.given for assignment in at_work)])
    if not at_work or now - since <= _SILENT:
        child.main_mark = None
        return False
    if child.main_mark is None:
        child.main_mark = now, processor_time(child.pid)
    return True


def blame(child: ChildProcess, late: tuple[int, ...], now: float, *, silent: bool) -> KillReason:
    """Decide which jobs made others exceed their limits, and which suspects must be rerun alone."""
    board, at_work = child.board, child.at_work
    blocker = board.blocker
    begun = MAX_JOBS - bytes(board.states).count(PENDING)
    if begun == 1 and len(at_work) == 1 and at_work[0].alone:
        return KillReason(REASON_TIMEOUT, _LATE, late)  # it is the only one that can be
    if silent:
        is_async = blocker is not None or any([assignment.beside for assignment in at_work])
        if not is_async and _main_is_busy(child, now):
            return KillReason(REASON_TIMEOUT, _LATE, late)
    elif blocker is None or blocker in late:
        return KillReason(REASON_TIMEOUT, _LATE, late if blocker is None else (blocker,))
    elif blocker != UNKNOWN:
        return KillReason(REASON_TIMEOUT, _LATE, (), alone=(blocker,))  # its own time is not up
    return KillReason(REASON_TIMEOUT, _LATE, (), alone=(*late, *board.places(ENDED)))


def _main_is_busy(child: ChildProcess, now: float) -> bool:
    """Whether the main thread, that of the job, has been running while the helper thread has not."""
    if child.main_mark is None:
        return False
    since, before = child.main_mark
    return now > since and processor_time(child.pid) - before > _BUSY * (now - since)


def _stubborn(child: ChildProcess, now: float) -> list[int]:
    """The places of jobs that were ordered to stop, and whose time for that is up."""
    board, found = child.board, []
    for ticket in [ticket for ticket, by in child.stop_by.items() if now >= by]:
        del child.stop_by[ticket]
        for assignment in child.at_work:
            if assignment.ticket == ticket:
                stopped = board.stopped(ticket, assignment.first, assignment.count)
                found += [assignment.first + at for at in stopped if board.states[assignment.first + at] == STARTED]
    return found
