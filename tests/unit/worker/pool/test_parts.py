"""The small parts of the worker: frames, the board, the outbox, and what is decided after a crash."""

from __future__ import annotations

import os
import random
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace

import pytest

from dts.config import WorkerSettings
from dts.wire import codec
from dts.wire.dts_pb2 import FAILED, SUCCEEDED, Error, JobBatch, ResultBatch
from dts.worker.attempt.retry_policy import Failure
from dts.worker.attempt.terms import default_terms
from dts.worker.child.active_batch import ActiveBatch
from dts.worker.child.outbox import Outbox
from dts.worker.events import EventCounter, Events
from dts.worker.link import frames
from dts.worker.link.board import ENDED, MAX_JOBS, SENT, STARTED, Board, Phase
from dts.worker.link.frames import Frame, FrameReader, Kind, pack_header
from dts.worker.pool.child_process import Assignment
from dts.worker.pool.crash import Crash
from dts.worker.pool.recovery import MAX_DEATHS, Recoverer, Recovery


@pytest.fixture
def board() -> Iterator[Board]:
    board = Board.create()
    yield board
    board.close()


def make_batch(jobs: int) -> JobBatch:
    batch = JobBatch(block="b", run="r", function="text/upper")
    for position in range(jobs):
        batch.jobs.add(index=100 + position, args=b'["a"]', attempt=2, kills=1)
    return batch


# frames


def test_frames_survive_being_cut_anywhere() -> None:
    frames = [
        Frame(Kind.RESULTS, 2**40, b"x" * 1000, codec.DEFLATE, jobs=7, failed=3),
        Frame(Kind.READY, 0),
        Frame(Kind.DONE, 1, b"y"),
    ]
    stream = b"".join(pack_header(frame) + frame.body for frame in frames) * 20
    reader, found = FrameReader(), []
    chance = random.Random(1)
    while stream:
        size = chance.randint(1, 300)
        found += reader.feed(stream[:size])
        stream = stream[size:]
    assert found == frames * 20


@pytest.mark.parametrize("garbage", [b"x" * 64, bytes(64), pack_header(Frame(99, 1))])
def test_what_is_not_a_frame_is_noticed_and_not_waited_for(garbage: bytes) -> None:
    reader, good = FrameReader(), Frame(Kind.RESULTS, 3, b"abc")
    found = reader.feed(pack_header(good) + b"abc" + garbage)
    found += reader.feed(pack_header(good) + b"abc")
    assert found == [good], "what came before it counts"
    assert reader.broken
    assert reader.feed(b"more") == []


def test_the_description_of_the_frames_names_every_kind() -> None:
    described = set(re.findall(r"[A-Z_]{2,}", frames.__doc__ or ""))
    assert {kind.name for kind in Kind} - described == set()


# the board


def test_what_is_written_to_the_descriptor_of_a_sealed_board_does_not_reach_it(board: Board) -> None:
    board.seal()
    board.claim(7)
    with pytest.raises(PermissionError):
        os.write(board.fd, b"x" * 64)
    with pytest.raises(PermissionError):
        os.truncate(board.fd, 0)
    assert board.claimed == 7
    board.phase = Phase.RUNNING
    assert board.phase is Phase.RUNNING, "those who have it go on as before"


def test_a_board_that_cannot_be_is_known(board: Board) -> None:
    board.claim(2)
    assert board.is_sound(2)
    assert not board.is_sound(1), "it was given no such assignment"
    os.write(board.fd, b"x" * 64)
    assert not board.is_sound(2)


def test_an_assignment_is_begun_or_taken_back_never_both(board: Board) -> None:
    assert board.claim(1)
    assert board.claimed == 1
    assert board.recall(3) == 1, "2 and 3 are the worker's again"
    assert not board.claim(2)
    assert not board.claim(3)
    assert board.recall(2) == 1
    assert not board.claim(3), "what is taken back stays so"
    assert board.claim(4)
    assert board.recall(4) == 4, "too late"


def test_the_worker_does_not_wait_for_a_child_that_is_choosing(board: Board) -> None:
    code = f"import fcntl; fcntl.lockf({board.fd}, fcntl.LOCK_EX); print('locked', flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", code], pass_fds=[board.fd], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"locked\n"
        assert board.recall(1) is None
        holder.kill()
    assert board.recall(1) == 0, "the dead hold no locks"


def test_a_new_assignment_begins_with_a_clean_board(board: Board) -> None:
    board.claim(1)
    board.states[5] = STARTED
    board.phase = Phase.RUNNING
    assert board.places(STARTED) == [5]
    board.claim(2)
    assert board.places(STARTED) == []
    assert board.phase is Phase.DECODING
    assert len(board.states) >= MAX_JOBS


def test_orders_to_stop_concern_one_assignment_at_its_places(board: Board) -> None:
    board.claim(3)
    board.claim(4, beside=True)
    board.stop(3, [0, 1, 7])
    board.stop(4, [10, 12])
    assert board.stopped(3, 0, 10) == [0, 1, 7]
    assert board.stopped(4, 10, 5) == [0, 2]
    assert board.stopped(5, 0, MAX_JOBS) == [], "what was ordered for others that were there before means nothing"


def test_jobs_that_run_beside_others_have_a_cleared_part_of_the_board(board: Board) -> None:
    board.claim(1)
    board.states[2], board.limits[2] = ENDED, 5.0
    states, limits, _ = board.view(2, 3)
    assert (list(states), list(limits)) == ([0, 0, 0], [0.0, 0.0, 0.0])
    states[1] = STARTED
    assert board.places(STARTED) == [3]
    board.claim(2, beside=True)
    assert board.places(STARTED) == [3], "that it was claimed does not touch what runs"


# the outbox


def test_results_are_sent_once_and_the_last_ones_say_that_it_is_done(board: Board) -> None:
    batch = make_batch(3)
    sent: list[Frame] = []
    outbox = Outbox(ActiveBatch(9, batch, default_terms(WorkerSettings()), board), "me", sent.append)
    outbox.version = "v1"
    outbox.flush()
    assert sent == [], "nothing to send"
    outbox.ended.append((1, batch.jobs[1], b'"A"', None, 0.5, 0.25, b""))
    outbox.flush()
    assert board.places(SENT) == [1]
    outbox.ended.append((0, batch.jobs[0], b"", Failure(Error(type="T")), 0.5, 0.25, b""))
    outbox.ended.append((2, batch.jobs[2], b"1", None, 0.5, 0.25, b""))
    outbox.finish()
    outbox.flush()
    first, last = sent
    assert (first.kind, first.jobs, first.failed) == (Kind.RESULTS, 1, 0)
    assert (last.kind, last.jobs, last.failed, last.ticket) == (Kind.DONE, 2, 1, 9)
    part = codec.decode(ResultBatch, first.body, first.content_encoding)
    assert (part.block, part.run, part.function, part.worker, part.version) == ("b", "r", "text/upper", "me", "v1")
    (result,) = part.results
    assert (result.index, result.status, result.value, result.attempt) == (101, SUCCEEDED, b'"A"', 2)
    assert (result.duration, result.offset) == (0.5, 0.25)
    rest = codec.decode(ResultBatch, last.body, last.content_encoding).results
    assert [(result.index, result.status) for result in rest] == [(100, FAILED), (102, SUCCEEDED)]


# after a crash


def crash(*, phase: Phase = Phase.RUNNING, suspects: list[int], unsent: list[int]) -> Crash:
    return Crash(phase, suspects, unsent, "died of SIGSEGV")


def test_what_becomes_of_the_jobs_of_a_crash_is_said_in_full() -> None:
    at_one = crash(suspects=[1], unsent=[0, 1, 2])
    assert str(RECOVERER.recover(make_assignment(2), crash(suspects=[1], unsent=[0, 1]))) == (
        "1 job failed, which has killed 2 processes so far, 1 job without a result runs again in a fresh child"
    )
    assert str(Recoverer("me", WorkerSettings(poison_after=5)).recover(make_assignment(3), at_one)) == (
        "1 job will be tried again, which has killed 2 processes so far,"
        " 2 jobs without a result run again in a fresh child"
    )


def test_a_job_that_was_killed_has_the_duration_for_which_it_ran() -> None:
    late = Crash(Phase.RUNNING, [1], [1], "was killed", reason="timeout", durations={1: 2.5})
    recovery = RECOVERER.recover(make_assignment(3), late)
    assert recovery.part is not None
    (result,) = codec.decode(ResultBatch, *recovery.part).results
    assert result.duration == 2.5


RECOVERER = Recoverer("me", WorkerSettings(poison_after=2))


def indices(recovery: Recovery) -> list[list[int]]:
    """The jobs of each assignment that is to be run again."""
    batches = [codec.decode(JobBatch, again.body, again.content_encoding) for again in recovery.again]
    assert all((batch.block, batch.run, batch.function) == ("b", "r", "text/upper") for batch in batches)
    return [[job.index for job in batch.jobs] for batch in batches]


def make_assignment(jobs: int, deaths: int = 0) -> Assignment:
    return Assignment(*codec.encode(make_batch(jobs)), owner=None, deaths=deaths)


def test_the_job_at_work_has_failed_and_the_unsent_ones_run_again() -> None:
    recovery = RECOVERER.recover(make_assignment(5), crash(suspects=[2], unsent=[1, 2, 3, 4, 5, 6]))
    assert indices(recovery) == [[101, 103, 104]]
    assert recovery.part is not None
    part = codec.decode(ResultBatch, *recovery.part)
    (result,) = part.results
    assert (result.index, result.status, result.attempt) == (102, FAILED, 2)
    assert (result.error.type, result.error.reason) == ("ProcessDied", "poison")
    assert "SIGSEGV" in result.error.message
    assert recovery.failed == 1


def test_the_last_job_leaves_nothing_to_run() -> None:
    recovery = RECOVERER.recover(make_assignment(1), crash(suspects=[0], unsent=[0, 1]))
    assert recovery.again == []
    assert recovery.failed == 1


def test_of_several_suspects_each_runs_alone() -> None:
    recovery = RECOVERER.recover(make_assignment(5), crash(suspects=[1, 3], unsent=[1, 2, 3, 4]))
    assert indices(recovery) == [[101], [103], [102, 104]]
    assert recovery.part is None


def test_of_suspects_in_messages_beside_each_other_each_runs_alone_and_the_rest_is_innocent() -> None:
    died = replace(crash(suspects=[1], unsent=[0, 1, 2]), others=True)
    recovery = RECOVERER.recover(make_assignment(3), died)
    assert indices(recovery) == [[101], [100, 102]]
    assert [again.alone for again in recovery.again] == [True, False]
    assert recovery.part is None, "nobody knows that it was this one"
    died = replace(crash(suspects=[], unsent=[0, 1, 2]), others=True)
    for _ in range(MAX_DEATHS + 1):
        recovery = RECOVERER.recover(make_assignment(3), died)
        assert [(again.deaths, again.alone) for again in recovery.again] == [(0, False)]


@pytest.mark.parametrize("phase", [Phase.DECODING, Phase.LOADING, Phase.RUNNING])
def test_a_death_that_no_job_explains_is_tried_again_a_few_times(phase: Phase) -> None:
    died = crash(phase=phase, suspects=[], unsent=[0, 1, 2, 3])
    again = make_assignment(3)
    for _ in range(MAX_DEATHS - 1):
        recovery = RECOVERER.recover(again, died)
        assert indices(recovery) == [[100, 101, 102]]
        again = recovery.again[0]
    recovery = RECOVERER.recover(again, died)
    assert recovery.again == []
    if phase is Phase.DECODING:
        assert "SIGSEGV" in recovery.dead
    else:
        assert recovery.failed == 3
        assert recovery.dead == ""


def test_events_are_counted_by_function() -> None:
    counter = EventCounter()
    counter.add("a/b", Events.RECV, 3)
    counter.add("a/c", Events.RECV, 1)
    counter.add("a/b", Events.DONE, 2)
    assert counter.count("a/b", Events.RECV) == 3
    assert counter.count("x/y", Events.FAIL) == 0
    assert counter.total(Events.RECV) == 4
    assert counter.functions == ["a/b", "a/c"]
    assert [event.value for event in (Events.RECV, Events.FAIL, Events.DONE)] == [1, 2, 3]
    assert ENDED not in (STARTED, SENT)
