"""Which children are killed, and which of their jobs are to blame: the rules, with a board and no process."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator

import pytest

from dts.wire.codec import IDENTITY
from dts.worker.link.board import ENDED, SENT, STARTED, UNKNOWN, Board, Phase
from dts.worker.pool.child_process import Assignment, ChildProcess
from dts.worker.pool.limits import reason_to_kill
from dts.worker.pool.stuck import examine

NOW = 1e9
"""A time long after whatever the tests do."""


class Child(ChildProcess):
    """One that nobody kills."""

    killed = dumped = False

    def kill(self) -> None:
        self.killed = True

    def dump(self) -> None:
        self.dumped = True


@pytest.fixture
async def child() -> AsyncIterator[Child]:
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    made = Child(os.getpid(), asyncio.get_running_loop().create_future(), ours, Board.create(), os.dup(0))
    yield made
    made.close()
    theirs.close()


def begin(child: Child, phase: Phase = Phase.RUNNING, *, alone: bool = False) -> None:
    """Give it a message, and have it begin with that."""
    child.give(Assignment(b"", IDENTITY, None, alone=alone), 1)
    child.board.claim(1)
    child.board.phase = phase


def look(child: Child, looks: int, since: float = 0.0, every: float = 0.05) -> None:
    for number in range(looks):
        examine(child, since + every * number)


# children that stand still


@pytest.mark.parametrize("phase", [Phase.DECODING, Phase.RUNNING, Phase.IDLE])
async def test_one_that_stands_still_between_jobs_is_killed_after_its_last_words(child: Child, phase: Phase) -> None:
    begin(child, phase)
    child.board.states[2] = ENDED
    look(child, 190)
    early = child.kill_reason
    look(child, 20, 9.5)
    assert early is None
    assert child.kill_reason is not None
    assert child.kill_reason.places == (2,)
    assert "stood still for 10 s" in child.kill_reason.said
    assert child.dumped
    await asyncio.sleep(0.3)
    assert child.killed


async def test_one_that_goes_on_at_the_last_moment_is_spared(child: Child) -> None:
    begin(child)
    look(child, 210)
    assert child.dumped
    child.board.states[0] = STARTED
    await asyncio.sleep(0.3)
    assert child.kill_reason is None
    assert not child.killed


async def test_time_for_which_the_worker_stood_still_itself_does_not_count(child: Child) -> None:
    begin(child)
    look(child, 20)
    look(child, 20, since=10_000.0)
    assert child.kill_reason is None


async def test_work_that_is_given_ahead_is_no_sign_of_life(child: Child) -> None:
    begin(child)
    for number in range(6):
        look(child, 40, 2.0 * number)
        child.give(Assignment(b"", IDENTITY, None), 2 + number)
        child.recall()
    assert child.kill_reason is not None


async def test_nothing_happens_to_one_at_a_job_at_an_import_waiting_for_a_lease_or_idle(child: Child) -> None:
    look(child, 300)
    begin(child, Phase.LOADING)
    look(child, 300, 15.0)
    child.board.phase, child.board.states[0] = Phase.RUNNING, STARTED
    look(child, 300, 30.0)
    child.board.states[0], child.on_hold = SENT, 1
    look(child, 300, 45.0)
    assert child.kill_reason is None


async def test_one_that_is_to_end_and_does_not_is_killed(child: Child) -> None:
    child.leaving = "it has run 3 jobs"
    look(child, 210)
    assert child.killed
    assert child.kill_reason is None, "that it was to end is what is told of it"


# jobs that are late


def start(child: Child, late: int, others: int = 0, *, silent: bool = False) -> None:
    board = child.board
    board.timed, board.beat = True, NOW - (5.0 if silent else 0.01)
    for place in range(late + others):
        board.states[place] = STARTED
        board.limits[place] = NOW - 1 if place < late else NOW + 1


async def test_all_late_jobs_are_to_blame_while_their_loop_is_free(child: Child) -> None:
    begin(child)
    start(child, 2, others=1)
    kill_reason = reason_to_kill(child, NOW)
    assert kill_reason is not None
    assert (kill_reason.places, kill_reason.alone) == ((0, 1), ())


@pytest.mark.parametrize(
    ("blocker", "places", "alone"),
    [(1, (1,), ()), (2, (), (2,)), (UNKNOWN, (), (0, 1, 5))],
    ids=["late itself", "not late", "not known"],
)
async def test_who_blocks_the_loop_is_to_blame_and_if_nobody_knows_who_each_runs_alone(
    child: Child, blocker: int, places: tuple[int, ...], alone: tuple[int, ...]
) -> None:
    begin(child)
    start(child, 2, others=1)
    child.board.states[5] = ENDED
    child.board.blocker = blocker
    assert child.board.blocker == blocker
    kill_reason = reason_to_kill(child, NOW)
    assert kill_reason is not None
    assert (kill_reason.places, kill_reason.alone) == (places, alone)


@pytest.mark.parametrize("alone", [False, True])
async def test_while_a_thread_holds_the_lock_only_one_that_was_run_alone_is_to_blame(child: Child, alone: bool) -> None:
    begin(child, alone=alone)
    start(child, 1, silent=True)
    kill_reason = reason_to_kill(child, NOW)
    assert kill_reason is not None
    assert (kill_reason.places, kill_reason.alone) == (((0,), ()) if alone else ((), (0,)))


async def test_an_import_that_a_thread_of_an_earlier_message_may_hold_up_is_tried_again(child: Child) -> None:
    begin(child, Phase.LOADING)
    child.board.loading_limit = NOW - 1
    kill_reason = reason_to_kill(child, NOW)
    assert kill_reason is not None
    assert kill_reason.reason == "timeout", "nothing ran in this process before"
    child._free_since = 1.0
    kill_reason = reason_to_kill(child, NOW)
    assert kill_reason is not None
    assert kill_reason.reason == "crashed"
