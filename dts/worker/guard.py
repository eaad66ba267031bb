"""Kills children whose job has passed its hard limits: of time, of memory, of the grace after it was cancelled."""

from __future__ import annotations

import asyncio
import time

from dts.runtime.service import Service
from dts.worker.board import STARTED, Phase
from dts.worker.executor import REASON_CANCELLED, Executor
from dts.worker.process import ChildProcess, Doom
from dts.worker.retries import REASON_MEMORY, REASON_TIMEOUT
from dts.worker.surroundings import resident_size

INTERVAL = 0.05
"""Seconds between looks at the children."""

_MEMORY_SLACK = 32 * 1024 * 1024
"""Bytes over the limit at which the worker kills: a child that can, has got a MemoryError at the limit itself."""


class Guard(Service):
    """Looks at the boards of all children every so often."""

    def __init__(self, executor: Executor) -> None:
        super().__init__()
        self._executor = executor

    async def _start(self) -> None:
        self._spawn(self._run(), "guard")

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(INTERVAL)
            now = time.monotonic()
            for child in self._executor.children:
                child.examine(now)
                if child.given and child.doom is None and not child.garbled and (doom := judge(child, now)) is not None:
                    child.condemn(doom)


def judge(child: ChildProcess, now: float) -> Doom | None:
    """Why a child must be killed now, if it must."""
    board = child.board
    if board.phase is Phase.LOADING and 0 < board.loading_limit < now:
        return Doom(REASON_TIMEOUT, "was killed since it ran longer than its timeout", ())
    if board.phase is not Phase.RUNNING:
        return None
    if board.timed:
        late = tuple(at for at in board.places(STARTED) if 0 < board.limits[at] < now)
        if late:
            return Doom(REASON_TIMEOUT, "was killed since it ran longer than its timeout", late)
    if child.stop_by and (stubborn := _stubborn(child, now)):
        return Doom(REASON_CANCELLED, "was killed since it was cancelled and did not end", tuple(stubborn))
    if board.memory_limit and resident_size(child.pid) > board.memory_limit + _MEMORY_SLACK:
        said = "was killed since it took more than its memory limit"
        return Doom(REASON_MEMORY, said, tuple(board.places(STARTED)))
    return None


def _stubborn(child: ChildProcess, now: float) -> list[int]:
    """The places of jobs that were told to stop, and whose time for that is up."""
    board, found = child.board, []
    for ticket in [ticket for ticket, by in child.stop_by.items() if now >= by]:
        del child.stop_by[ticket]
        for assignment in child.at_work:
            if assignment.ticket == ticket:
                stopped = board.stopped(ticket, assignment.first, assignment.count)
                found += [assignment.first + at for at in stopped if board.states[assignment.first + at] == STARTED]
    return found
