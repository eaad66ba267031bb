"""Whose turn it is: which waiting assignment begins next, and in which child."""

from __future__ import annotations

import time
from collections.abc import Sequence

from dts.worker.pool.child_process import Assignment, ChildProcess
from dts.worker.pool.roster import Roster

_MOST_PASSED_OVER = 4
"""Messages with a warm child that may overtake one without: more would save few forks and cost it time."""
_PASSED_OVER_FOR = 0.05
"""Seconds after its arrival for which a message may be overtaken so: as long as a message of quick jobs takes."""


def next_turn(
    waiting: Sequence[Assignment], roster: Roster, free_slots: int, *, ahead: bool
) -> tuple[Assignment, ChildProcess] | None:
    """The assignment that begins next, and the child that it goes to; None while none can.

    A free slot prefers an assignment whose namespace or version has an idle child. Without a free slot, none overtakes
    the one that has waited longest, so that none keeps a child, or an event loop, for itself.
    """
    if free_slots > 0:
        first = waiting[0]
        for assignment in waiting:
            if (child := roster.idle_of(assignment.scope)) is not None:
                first.passed_over += assignment is not first
                return assignment, child
            if _is_due(first):
                break
        if roster.blank:
            return first, next(iter(roster.blank))
    for assignment in waiting:
        if (child := roster.with_room(assignment.scope, ahead=ahead)) is not None:
            return assignment, child
        if free_slots <= 0:
            break
    return None


def _is_due(assignment: Assignment) -> bool:
    """Whether an assignment must be overtaken no more by those that have a warm child."""
    waited = time.monotonic() - assignment.submitted
    return assignment.passed_over >= _MOST_PASSED_OVER or waited > _PASSED_OVER_FOR
