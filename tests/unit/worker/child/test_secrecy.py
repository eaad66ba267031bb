"""No secret leaves a child: not in what jobs yield, not by halves where a text is cut, and not after its removal."""

from __future__ import annotations

import json
import logging
import time

import pytest

from dts.config import WorkerSettings
from dts.wire import codec
from dts.wire.dts_pb2 import Job, JobBatch, LogRecord, Progress, ResultBatch
from dts.worker.attempt.failure import MAX_MESSAGE
from dts.worker.attempt.retry_policy import RetryPolicy
from dts.worker.attempt.terms import TermsOf, default_terms
from dts.worker.child import secrets
from dts.worker.child.active_batch import ActiveBatch
from dts.worker.child.joblog import MAX_TEXT, JobLog
from dts.worker.child.outbox import RUNNING_AFTER, Outbox, _mask
from dts.worker.link.board import STARTED, Board
from dts.worker.link.frames import Frame
from dts.worker.link.masking import Masker
from dts.worker.link.options import ChildOptions

SECRET = "hunter22hunter23"
DEFAULTS = default_terms(WorkerSettings())


@pytest.fixture(autouse=True)
def namespace(monkeypatch: pytest.MonkeyPatch) -> None:
    """A namespace with one secret."""
    monkeypatch.setattr(secrets._Held, "masker", Masker())
    monkeypatch.setattr(secrets._Held, "secrets", secrets.Secrets({}))
    secrets.adopt(json.dumps({"TOKEN": SECRET}).encode())


@pytest.mark.parametrize("removed", [False, True])
@pytest.mark.parametrize(
    ("yielded", "masked"), [([1, SECRET], [1, "***"]), ([f"<{SECRET}>"], ["<***>"]), ([2, 3], [2, 3])]
)
def test_of_what_jobs_yield(yielded: list[object], masked: list[object], *, removed: bool) -> None:
    if removed:
        secrets.adopt(b"")
    board, batch = Board.create(), JobBatch(block="b", run="r", function="own/f", jobs=[Job(index=0)])
    active = ActiveBatch(1, batch, DEFAULTS, board)
    active.states[0] = STARTED
    sent: list[Frame] = []
    outbox = Outbox(active, "me", sent.append)
    partials = json.dumps(yielded).encode()
    outbox.take_progress = lambda: [Progress(index=0, partials=partials)]
    outbox.look(time.monotonic() + RUNNING_AFTER * 2)
    outbox.ended.append((0, batch.jobs[0], b'"%s"' % SECRET.encode(), None, 0.0, 0.0, partials))
    outbox.finish()
    board.close()
    running, done = (codec.decode(ResultBatch, frame.body, frame.content_encoding) for frame in sent)
    assert json.loads(running.progress[0].partials) == json.loads(done.results[0].partials) == masked
    assert json.loads(done.results[0].value) == "***"


def test_values_that_are_a_secret_by_their_digits_stay_an_array() -> None:
    secrets.adopt(b'{"PIN": "12345678"}')
    part = ResultBatch(progress=[Progress(partials=b"[12345678]")])
    part.results.add(partials=b"[12345678]")
    _mask(part)
    assert part.progress[0].partials == part.results[0].partials == b'["***"]'


@pytest.mark.parametrize("shift", range(0, len(SECRET) + 1, 4))
def test_of_an_error_that_is_cut(shift: int) -> None:
    batch = JobBatch(function="own/f", jobs=[Job(index=0)])
    text = "x" * (MAX_MESSAGE // 4 - shift) + SECRET + "y" * MAX_MESSAGE
    policy = RetryPolicy(WorkerSettings(), secrets.mask)
    error = policy.decide(ValueError(text), batch.jobs[0], TermsOf(batch, DEFAULTS).of(batch.jobs[0])).error
    assert "hunt" not in error.message + error.traceback
    assert "r23" not in error.message + error.traceback


@pytest.mark.parametrize("shift", range(0, len(SECRET) + 1, 4))
def test_of_a_log_record_that_is_cut(shift: int) -> None:
    sent: list[Frame] = []
    log = JobLog(ChildOptions("child", WorkerSettings()), sent.append)
    text = "x" * (MAX_TEXT // 4 - shift) + SECRET + "y" * MAX_TEXT
    log.take(logging.LogRecord("own", logging.ERROR, "", 0, text, (), None))
    message = LogRecord.FromString(sent[0].body).message
    assert "hunt" not in message
    assert "r23" not in message
