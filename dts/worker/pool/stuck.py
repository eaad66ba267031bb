"""Kills children that are stuck: they have work, or are to end, and nothing happens.

Functions cause that when they use descriptors that are not theirs: one that reads them takes the work away. What they
leave behind may also hold up the process when its jobs have ended.
"""

from __future__ import annotations

import asyncio

from dts.worker.link.board import ENDED, STARTED, Phase
from dts.worker.pool.child_process import REASON_CRASHED, ChildProcess, KillReason

STILL = 10.0
"""Seconds without a sign of life after which a child that has work, and is at no job and no import, is stuck."""
_STEP = 0.2
"""Seconds that count for that from one check to the next, at most: worker and child may both have been stopped."""
_LAST_WORDS = 0.2
"""Seconds that a stuck child has to print its stacks."""

_SCRIBBLED = "wrote to the memory that it shares with the worker, and was killed for that"
_WHEN = {
    Phase.DECODING: "when it began with a message",
    Phase.LOADING: "while it imported a module",
    Phase.RUNNING: "before a job or after one",
    Phase.IDLE: "after a message that it did not report as done",
}


def examine(child: ChildProcess, now: float) -> None:
    """Kill a child that is stuck, or whose board says what cannot be; `now` is monotonic, in seconds."""
    if not child.is_sound:
        if not child.garbled:
            child.distrust(_SCRIBBLED)
        return
    still = child.stillness
    passed, still.checked = now - still.checked, now
    if not _should_move(child):  # the usual case, and cheap: most children may be idle
        still.seconds = 0.0
        return
    seen = child.signs_of_life
    if seen != still.seen:
        still.seen, still.seconds = seen, 0.0
        return
    still.seconds += min(passed, _STEP)
    if still.seconds <= STILL or child.kill_reason is not None:
        return
    if child.leaving:
        child.kill()
        return
    places = tuple(child.board.places(ENDED)) if child.at_work else ()
    when = _WHEN[child.board.phase] if child.at_work else "and did not begin its work"
    child.kill_reason = KillReason(
        REASON_CRASHED, f"stood still for {STILL:g} s {when}, and was killed for that", places
    )
    child.dump()  # what it printed last is reported with what becomes of its jobs
    asyncio.get_running_loop().call_later(_LAST_WORDS, _end, child, seen)


def _should_move(child: ChildProcess) -> bool:
    """Whether it has something to do, and is at nothing of a user's code, which may take any time."""
    if not child.given:
        return bool(child.leaving)
    return not (child.on_hold or child.board.phase is Phase.LOADING or child.board.places(STARTED))


def _end(child: ChildProcess, seen: tuple[object, ...]) -> None:
    if child.has_ended or child.signs_of_life == seen:
        child.kill()
    else:  # it goes on after all
        child.kill_reason = None
