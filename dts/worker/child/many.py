"""Runs the jobs of a message by the function's `main_many`, up to `batch` of them in one call.

    an item's result is an exception    its job has failed of that; the retry policy decides
    the call raises                     nobody knows which item is to blame: each runs by itself, and fails alone
    the process dies, or is killed      the worker runs each job of the call by itself, for the same reason
    the result is no list of that length all jobs of the call fail, since the function is wrong

A job that has killed a process before, or is the only one that waits, is run by `main`, if there is one beside it.
"""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable
from contextvars import copy_context
from time import perf_counter
from typing import Any

import msgspec

from dts.worker.attempt.introspection import forget_traceback, is_a, show
from dts.worker.attempt.many import Arguments, WrongResults, results_of
from dts.worker.attempt.result_json import encode_value
from dts.worker.child.active_batch import ActiveBatch
from dts.worker.child.code.loader import Loaded
from dts.worker.child.outbox import MAX_PENDING, Outbox
from dts.worker.child.partials import Partials
from dts.worker.child.runner import Runner
from dts.worker.link.board import ENDED, PENDING, SENT, STARTED, UNKNOWN, Board

_decode_args = msgspec.json.Decoder(list[Any]).decode
_decode_kwargs = msgspec.json.Decoder(dict[str, Any]).decode


class ManyRunner:
    """Runs messages of functions that have a `main_many`."""

    def __init__(self, runner: Runner, board: Board, partials: Partials) -> None:
        self._runner, self._board, self._partials = runner, board, partials
        self._singles: set[int] = set()  # positions of jobs that run by themselves

    def run(self, function: Loaded, many: Callable[..., Any], batch: ActiveBatch, outbox: Outbox) -> None:
        """Run the waiting jobs of a message and send their results."""
        main = self._runner.begin(function, batch)
        self._singles = {position for position, job in enumerate(batch.jobs) if job.kills}
        batch.at_once = most = batch.terms.common.batch
        while taken := self._take(batch, most):
            batch.at_once = 1 if self._singles else most
            if len(taken) == 1:
                self._run_single(main, taken[0], batch, outbox)
            else:
                self._run_group(many, taken, batch, outbox)
        outbox.finish()

    def _take(self, batch: ActiveBatch, most: int) -> list[int]:
        """Take the jobs of the next call off those that wait."""
        taken: list[int] = []
        while len(taken) < most:
            try:
                position = batch.waiting.popleft()
            except IndexError:
                break  # the helper thread may have given them away
            if position not in self._singles:
                taken.append(position)
            elif taken:
                batch.waiting.appendleft(position)
                break
            else:
                return [position]
        return taken

    def _run_single(self, main: Callable[..., Any], position: int, batch: ActiveBatch, outbox: Outbox) -> None:
        self._singles.discard(position)
        try:
            self._runner.run_plain(main, batch, outbox, deque([position]))
        except BaseException as error:  # an interrupt that came while the job's own exception was handled
            if self._runner.current != position:
                raise
            self._runner.current = -1
            failure = self._runner.decide(position, error, batch)
            self._runner.fail(position, failure, batch, outbox, began=self._runner.began, started=batch.began)

    def _run_group(self, many: Callable[..., Any], taken: list[int], batch: ActiveBatch, outbox: Outbox) -> None:
        outbox.flush()  # should the process be killed, only the jobs of this call are suspects
        began = self._runner.began = perf_counter()
        group = self._admit(taken, batch, outbox, began)
        if not group:
            self._board.blocker = None
            return
        batch.together = group
        try:
            try:
                self._runner.current = group[0]
                results = self._call(many, [batch.jobs[position] for position in group])
                self._runner.current = -1
            except BaseException as error:  # noqa: BLE001 - a user's code runs here, and may call sys.exit as well
                return self._take_back(error, batch)
        except BaseException as error:  # noqa: BLE001 - an interrupt that came while that was handled
            return self._take_back(error, batch)
        self._board.blocker = None
        if self._runner.alarms.armed:
            self._runner.alarms.disarm(batch, group[0])
        return self._end(results, batch, outbox, began)

    def _admit(self, taken: list[int], batch: ActiveBatch, outbox: Outbox, began: float) -> list[int]:
        """Begin with jobs, each with its time limits; those that must not begin any more have failed."""
        group = []
        for position in taken:
            job = batch.jobs[position]
            refused = self._runner.admit(position, job, batch, began) if batch.terms.strict else None
            if refused is None:
                group.append(position)
                batch.states[position] = STARTED
            else:
                outbox.ended.append((position, job, b"", refused, 0.0, began - batch.began, b""))
                batch.states[position] = ENDED
        self._board.blocker = UNKNOWN  # if their time passes, no one is to blame yet
        return group

    def _call(self, many: Callable[..., Any], jobs: list[Any]) -> list[Any]:
        """The results of a call, one for each job. The call has a context of its own."""
        run = copy_context().run
        items = [
            Arguments(_decode_args(job.args) if job.args else (), _decode_kwargs(job.kwargs) if job.kwargs else {})
            for job in jobs
        ]
        returned = run(self._partials.complete, run(many, items))
        try:
            return results_of(returned, len(jobs))
        except WrongResults as error:
            return [error] * len(jobs)

    def _end(self, results: list[Any], batch: ActiveBatch, outbox: Outbox, began: float) -> None:
        """Put the results of a call in the outbox. Each job has its share of the time that the call took."""
        group, batch.together = batch.together, ()
        share, offset, pending = (perf_counter() - began) / len(group), began - batch.began, 0
        for position, result in zip(group, results, strict=True):
            job, failure = batch.jobs[position], None
            value, error = (b"", result) if is_a(result, BaseException) else self._encode(result)
            if error is not None:
                failure = self._runner.decide(position, error, batch)
            if position in batch.cancelled:
                batch.states[position] = SENT
                continue
            outbox.ended.append((position, job, value, failure, share, offset, b""))
            batch.states[position] = ENDED
            pending += len(value)
            if pending > MAX_PENDING:
                outbox.flush()
                pending = 0

    def _encode(self, result: Any) -> tuple[bytes, BaseException | None]:
        """The JSON text of a result, or else what is wrong with it."""
        try:
            return encode_value(result, self._runner.max_result), None
        except BaseException as error:  # noqa: BLE001 - a user's code may run here
            return b"", error

    def _take_back(self, error: BaseException, batch: ActiveBatch) -> None:
        """After a call that raised: have its jobs run one by one, but those that were cancelled."""
        self._runner.current, self._board.blocker = -1, None
        group, batch.together = batch.together, ()
        self._runner.clear(group[0], batch)
        rest = [position for position in group if position not in batch.cancelled]
        for position in group:
            batch.states[position] = SENT if position in batch.cancelled else PENDING
        if rest:
            print(  # noqa: T201
                f"main_many of {batch.batch.function} raised {show(error)}; its {len(rest)} items run one by one",
                file=sys.stderr,
            )
        self._singles.update(rest)
        batch.at_once = 1
        batch.waiting.extendleft(reversed(rest))
        forget_traceback(error)
