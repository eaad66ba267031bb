"""What a worker remembers of cancellations: enough, and no more, however many there are."""

from __future__ import annotations

import pytest

from dts.worker.queues import cancellations
from dts.worker.queues.cancellations import Cancellations


def test_single_jobs_are_remembered_up_to_a_number_over_all_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cancellations, "MAX_NUMBERS", 100)
    known = Cancellations()
    for number in range(80):
        assert known.learn(f"old-{number}") == {"old"}
    assert known.learn("old-7") == set()
    for number in range(60):
        known.learn(f"new-{number}")
    assert known.concerns("new")
    assert not known.concerns("old"), "the oldest run goes as a whole"
    assert known.learn("old-7") == {"old"}


def test_runs_are_remembered_up_to_a_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cancellations, "MAX_REMEMBERED", 3)
    known = Cancellations()
    for run in "abcd":
        known.learn(f"{run} {run}x-1")
    assert [known.is_run_cancelled(run) for run in "abcd"] == [False, True, True, True]
    assert [known.concerns(f"{run}x") for run in "abcd"] == [False, True, True, True]
