"""What a signal interrupts, and who is to blame for time that passes, at the moments between two jobs."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from dts.config import WorkerSettings
from dts.wire.dts_pb2 import Error, Job, JobBatch
from dts.worker.attempt.exceptions import Cancelled
from dts.worker.attempt.retry_policy import Failure
from dts.worker.attempt.terms import default_terms
from dts.worker.child.active_batch import ActiveBatch
from dts.worker.child.interrupts import Interrupter
from dts.worker.child.many import ManyRunner
from dts.worker.child.outbox import Outbox
from dts.worker.child.partials import Partials
from dts.worker.child.runner import Runner
from dts.worker.child.state.alarms import Alarms
from dts.worker.child.state.memory import MemoryLimit
from dts.worker.link.board import ENDED, Board


@pytest.fixture
def board() -> Iterator[Board]:
    """A board."""
    board = Board.create()
    yield board
    board.close()


@pytest.fixture
def runner(board: Board) -> Runner:
    """A runner between two jobs."""
    return Runner(board, WorkerSettings(), Partials(1000), MemoryLimit(), Alarms())


@pytest.mark.parametrize(("aim", "current", "raised"), [(-1, -1, False), (3, -1, False), (3, 4, False), (3, 3, True)])
def test_only_the_job_that_is_meant_is_interrupted(runner: Runner, aim: int, current: int, raised: bool) -> None:
    interrupter = Interrupter(runner)
    interrupter._aim, runner.current = (aim, Cancelled("stop")), current
    try:
        interrupter._on_signal(0, None)
    except Cancelled:
        assert raised
    else:
        assert not raised


def test_a_call_whose_jobs_must_not_begin_any_more_blames_nobody(
    runner: Runner, board: Board, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = JobBatch(block="b", run="r", function="own/f", jobs=[Job(index=0), Job(index=1)])
    batch.options.batch, batch.options.timeout = 2, 5
    active = ActiveBatch(1, batch, default_terms(WorkerSettings()), board)
    monkeypatch.setattr(runner, "admit", lambda *_: Failure(Error(type="Deadline")))
    outbox = Outbox(active, "me", lambda _: None)
    ManyRunner(runner, board, Partials(1000))._run_group(print, [0, 1], active, outbox)
    assert list(active.states[:2]) == [ENDED, ENDED]
    assert board.blocker is None
