"""Raises exceptions in the jobs at work: time limits that have passed, orders to stop. And finds a stuck event loop."""

from __future__ import annotations

import asyncio
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from typing import Any

from dts.worker.attempt.failure import clip
from dts.worker.child.active_batch import ActiveBatch
from dts.worker.child.eventloop import Loop
from dts.worker.child.runner import Runner, cancelled_error, soft_timeout_error
from dts.worker.link.board import SENT, STARTED, UNKNOWN, Board

NUMBER = signal.SIGRTMIN + 7
"""The signal that wakes the main thread; none that functions use themselves."""
_BLOCKED = 0.3  # seconds without an answer from an event loop after which it is blocked


class Interrupter:
    """Raises an exception in the main thread, if that still runs the job that it is meant for."""

    def __init__(self, runner: Runner) -> None:
        self._runner = runner
        self._aim: tuple[int, BaseException] | None = None
        self._main = threading.get_ident()

    def install(self) -> None:
        """Main thread: take the signal. Again after each message, since a function may have taken it."""
        if signal.getsignal(NUMBER) != self._on_signal:
            signal.signal(NUMBER, self._on_signal)

    def interrupt(self, position: int, error: BaseException) -> None:
        """Helper thread: raise `error` in the plain job at a position."""
        self._aim = (position, error)
        signal.pthread_kill(self._main, NUMBER)

    def _on_signal(self, number: int, frame: Any) -> None:
        aim, self._aim = self._aim, None
        if aim is not None and aim[0] >= 0 and aim[0] == self._runner.current:  # -1 is aimed at no job
            raise aim[1]


class SoftLimits:
    """Watches the soft time limits of plain jobs; async ones have timers of their loop."""

    def __init__(self, batch: ActiveBatch, runner: Runner, interrupter: Interrupter) -> None:
        self._batch, self._runner, self._interrupter = batch, runner, interrupter
        self._done = -1, 0.0

    def look(self, now: float) -> None:
        """Helper thread: interrupt a job that has passed its limit, once."""
        position, began = self._runner.current, self._runner.began
        if position < 0 or (position, began) == self._done or position != self._runner.current:
            return
        limit = self._batch.terms.of(self._batch.jobs[position]).soft_timeout
        if limit and now - began >= limit:
            self._done = position, began
            self._interrupter.interrupt(position, soft_timeout_error(limit))


class Stops:
    """Obeys the worker's orders to stop jobs: those that wait never begin, those at work get an exception."""

    def __init__(self, batch: ActiveBatch, runner: Runner, board: Board, interrupter: Interrupter) -> None:
        self._batch, self._runner, self._board, self._interrupter = batch, runner, board, interrupter

    def look(self, now: float = 0.0) -> None:
        """Any thread: look for orders."""
        batch = self._batch
        for position in self._board.stopped(batch.ticket, batch.first, len(batch.jobs)):
            if position in batch.cancelled:
                continue
            try:
                batch.waiting.remove(position)
            except ValueError:
                self._interrupt(position)
            else:
                batch.cancelled.add(position)
                batch.states[position] = SENT

    def _interrupt(self, position: int) -> None:
        batch = self._batch
        if batch.cancel is not None:
            if batch.states[position] == STARTED:
                batch.cancelled.add(position)
                batch.cancel(batch, position, cancelled_error())
        elif position == self._runner.current and not batch.together:
            batch.cancelled.add(position)
            self._interrupter.interrupt(position, cancelled_error())
        elif position in batch.together:
            batch.cancelled.add(position)
            if batch.cancelled.issuperset(batch.together):  # else the call goes on for the others
                self._interrupter.interrupt(self._runner.current, cancelled_error())


class Watchdog:
    """Finds out that a job blocks the event loop, so that no other one gets on, and reports which, and where.

    On the board it says so early, since jobs whose time passes meanwhile are not to blame.
    """

    def __init__(self, loop: Loop, board: Board, after: float, report: Callable[[str, str], None]) -> None:
        self._loop, self._board, self._after, self._report = loop, board, after, report
        self._answered: float | None = None
        self._asked = False
        self._reported: object = None

    def look(self, now: float) -> None:
        """Helper thread: ask the loop for a sign of life."""
        if not self._loop.tasks:
            self._answered, self._board.blocker = None, None
            return
        if self._answered is None or not self._asked:
            self._answered, self._asked, self._board.blocker = now, True, None
            self._loop.loop.call_soon_threadsafe(self._answer)
            return
        if now - self._answered >= _BLOCKED:
            self._board.blocker = self._blocker()
        if now - self._answered >= self._after:
            self._accuse(now - self._answered)

    def _blocker(self) -> int:
        """The place of the job at work that holds the loop."""
        found = self._loop.job_of(asyncio.current_task(self._loop.loop))
        if found is None or found not in list(self._loop.tasks.values()):
            return UNKNOWN
        batch, position = found
        return batch.first + position

    def _answer(self) -> None:
        self._asked = False

    def _accuse(self, seconds: float) -> None:
        import traceback

        task = asyncio.current_task(self._loop.loop)
        at_work = list(self._loop.tasks.values())
        found = self._loop.job_of(task)
        accused = found or task or self._loop  # the loop itself: a callback
        if not at_work or accused == self._reported:
            return
        self._reported = accused
        frame = sys._current_frames().get(threading.main_thread().ident or 0)
        stack = "".join(traceback.format_stack(frame, 8)) if frame is not None else ""
        self._report(
            f"{_name(found, at_work)} has blocked the event loop for {seconds:.1f} s, and all jobs beside it:"
            f" use await, or asyncio.to_thread for what blocks\n{clip(stack, 4000)}",
            found[0].job_id(found[1]) if found is not None else "",
        )


def _name(found: tuple[ActiveBatch, int] | None, at_work: Sequence[tuple[ActiveBatch, int]]) -> str:
    """Who blocks the loop, in words: a job, or what it left behind; or something else of the function at work."""
    if found is None:
        return f"something that {at_work[0][0].batch.function} has left on the event loop"
    batch, position = found
    job = batch.job_id(position) or f"with index {batch.jobs[position].index}"
    left = "" if found in at_work else "a task left behind by "
    return f"{left}the job {job} of {batch.batch.function}"
