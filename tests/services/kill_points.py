"""Deaths of a process that uses a queue file, each at a chosen point between writing and waking."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from typing import Any

from dts.broker.sqlite import file, pipe
from dts.broker.sqlite import queue as queue_table
from dts.embedded import thread
from dts.embedded.thread import DatabaseThread


def die(*_: Any, **__: Any) -> Any:
    """SIGKILL this process."""
    os.kill(os.getpid(), signal.SIGKILL)


def _after(original: Callable[..., Any]) -> Callable[..., Any]:
    def run(*arguments: Any, **named: Any) -> Any:
        original(*arguments, **named)
        die()

    return run


def _in_commit() -> None:
    DatabaseThread._committed = die  # type: ignore[method-assign]


def _before_hint() -> None:
    pipe.ProcessPipe.send_queues = die  # type: ignore[method-assign]


def _in_hint() -> None:
    pipe.os.write = die


def _after_hint() -> None:
    pipe.ProcessPipe.send_queues = _after(pipe.ProcessPipe.send_queues)  # type: ignore[method-assign]


def _in_transaction() -> None:
    thread._in_savepoint = _after(thread._in_savepoint)


def _before_answer() -> None:
    delivered = thread._deliver
    answered = 0

    def deliver(*arguments: Any) -> None:
        nonlocal answered
        answered += 1
        if answered > 1:  # the first says that the file is open
            die()
        delivered(*arguments)

    thread._deliver = deliver


def _while_opening() -> None:
    file.queue_table.prepare = die


def _while_making_its_pipe() -> None:
    pipe.os.mkfifo = _after(pipe.os.mkfifo)


def _with_a_claim() -> None:
    queue_table.claim = _after(queue_table.claim)


POINTS: dict[str, Callable[[], None]] = {
    "in-transaction": _in_transaction,
    "with-a-claim": _with_a_claim,
    "in-commit": _in_commit,
    "before-hint": _before_hint,
    "in-hint": _in_hint,
    "after-hint": _after_hint,
    "before-answer": _before_answer,
    "while-opening": _while_opening,
    "while-making-its-pipe": _while_making_its_pipe,
}
"""By name, what makes this process die when it comes to that point."""
