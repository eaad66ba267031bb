"""How a child died, and which of its jobs may have done that: read from its board after its end."""

from __future__ import annotations

import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from dts.worker.link.board import ENDED, PENDING, STARTED, Phase, find_state
from dts.worker.pool.child_process import REASON_CRASHED, Assignment, ChildProcess, say_end
from dts.worker.pool.spawner import LOST

REASON_KILLED, REASON_EXIT = "killed", "exit"
"""Codes for how a child died: of a SIGKILL that the worker has not sent, by an exit."""
REASON_LOST, REASON_CANCELLED = "lost", "cancelled"
"""More codes: with the template, because its job was cancelled."""


@dataclass(frozen=True, slots=True)
class Crash:
    """How a child died at an assignment.

    `suspects` are the positions of the jobs that may have caused it. `unsent` are those of all jobs without a result,
    suspects included; there may be positions beyond the last job. `said` reads like "died of SIGSEGV", `reason` is its
    code; `tail` is the last of what the process printed. `others` says that there are suspects in messages that ran
    concurrently. `durations` are seconds for which suspects were at work, by position, where that is known. `mixed`
    says that part of `tail` may be from earlier jobs. `alone` are positions of jobs that are not to blame yet, and
    that must run by themselves. `version` is the function's, empty if it is not known.
    """

    phase: Phase
    suspects: list[int]
    unsent: list[int]
    said: str
    reason: str = REASON_CRASHED
    tail: str = ""
    others: bool = False
    durations: dict[int, float] = field(default_factory=dict)
    mixed: bool = False
    alone: list[int] = field(default_factory=list)
    version: str = ""


def crashes_of(child: ChildProcess, crashed: list[Assignment], code: int) -> list[tuple[Assignment, Crash]]:
    """What a dead child was doing at each of its assignments, as its board has it. Suspects are

    usually                                            the jobs at work
    when none was at work, or its socket was closed    those, and the jobs that had ended without a result sent: one
                                                       may have left a thread behind, or closed the descriptor
    when the worker killed it for a reason             the jobs that the reason names
    when it sent garbage                               all jobs that it had begun: results may be lost in that
    of a message that it never reported as done,       all its jobs: the board is about the later message
    though it had begun a later one
    """
    overtaken = [each for each in crashed if not each.beside and each.ticket < crashed[-1].ticket]
    at_work = any(_states(child, each, STARTED) for each in crashed)
    found = [(each, *_involved(child, each, crashed, overtaken, at_work=at_work)) for each in crashed]
    tail = child.output.tail() if child.output is not None else ""
    said, reason = cause_of(child, code)
    total = sum(len(suspects) + len(alone) for _, suspects, _, alone in found)
    phase = child.board.phase if child.is_sound else Phase.RUNNING
    return [
        (
            each,
            Crash(
                phase,
                suspects,
                unsent,
                said,
                reason,
                tail,
                others=total > len(suspects) + len(alone),
                durations=_durations(child, each, suspects),
                mixed=not each.quiet,
                alone=alone,
                version=child.board.version if child.is_sound and not child.garbled and each not in overtaken else "",
            ),
        )
        for each, suspects, unsent, alone in found
    ]


def _involved(
    child: ChildProcess,
    each: Assignment,
    crashed: Sequence[Assignment],
    overtaken: Sequence[Assignment],
    *,
    at_work: bool,
) -> tuple[list[int], list[int], list[int]]:
    """Of one of a dead child's assignments: the suspects, what has no result yet, and what of it must run alone.

    `at_work` says whether it was at any job of any assignment.
    """
    if each in overtaken:
        everything = list(range(each.count))
        return everything, everything, []
    if child.garbled:
        return *_all_begun(child, each, only=len(crashed) == 1), []
    started, ended = _states(child, each, STARTED), _states(child, each, ENDED)
    if (kill_reason := child.kill_reason) is not None:
        suspects = _positions(each, kill_reason.places or ())
    elif child.severed or not at_work:
        suspects = sorted(started + ended)
    else:
        suspects = started
    if overtaken:
        suspects = [position for position in suspects if position in started]
    unsent = sorted(started + ended + _states(child, each, PENDING))
    alone = _positions(each, kill_reason.alone) if kill_reason is not None else []
    return suspects, unsent, [position for position in alone if position in unsent]


def _positions(assignment: Assignment, places: Sequence[int]) -> list[int]:
    """The positions in an assignment of those jobs at some places that are its own."""
    return [at - assignment.first for at in places if 0 <= at - assignment.first < assignment.count]


def cause_of(child: ChildProcess, code: int) -> tuple[str, str]:
    """How a child came to its end, in words and as one of the codes."""
    if child.kill_reason is not None:
        return child.kill_reason.said, child.kill_reason.reason
    if child.leaving:
        return f"was replaced, since {child.leaving},", REASON_CRASHED
    if child.severed:
        return "closed its connection to the worker and was killed for that", REASON_CRASHED
    if code == -signal.SIGKILL:
        said = "was killed by SIGKILL from outside, perhaps by the kernel because memory was short, or killed itself"
        return said, REASON_KILLED
    return say_end(code), REASON_LOST if code == LOST else REASON_EXIT if code >= 0 else REASON_CRASHED


def _states(child: ChildProcess, assignment: Assignment, state: int) -> list[int]:
    """The positions of an assignment's jobs in a state."""
    first = assignment.first
    return find_state(child.board.states[first : first + assignment.count], state)


def _durations(child: ChildProcess, assignment: Assignment, positions: list[int]) -> dict[int, float]:
    """Seconds for which jobs of a dead child were at work when it died, where its board has that."""
    if child.garbled or not child.board.timed:
        return {}
    now, begins, states = time.monotonic(), child.board.begins, child.board.states
    places = {position: assignment.first + position for position in positions}
    return {position: now - begins[place] for position, place in places.items() if states[place] == STARTED}


def _all_begun(child: ChildProcess, assignment: Assignment, *, only: bool) -> tuple[list[int], list[int]]:
    """Positions of jobs that a child has begun, and of all, whatever it said about their results.

    Unless this is the `only` message, the board may be about another one.
    """
    everything = list(range(assignment.count))
    if not only or not child.is_sound:
        return everything, everything
    pending = set(_states(child, assignment, PENDING))
    return [position for position in everything if position not in pending], everything
