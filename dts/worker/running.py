"""Runs the jobs of one message: plain functions one after another, `async def` ones at the same time."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from itertools import chain
from time import perf_counter
from typing import Any

import msgspec

from dts.wire.dts_pb2 import Job
from dts.worker.board import ENDED, STARTED
from dts.worker.failure import describe, describe_ours
from dts.worker.jsonvalue import ResultNotJSON, ResultTooLarge, encode_value
from dts.worker.loader import Loaded
from dts.worker.outbox import MAX_PENDING, Ended, Outbox

_decode_args = msgspec.json.Decoder(list[Any]).decode
_decode_kwargs = msgspec.json.Decoder(dict[str, Any]).decode


class Runner:
    """Runs jobs and puts their results in an outbox.

    `states` is one byte a job, where the state of each is written before and after it runs. `max_result` is in bytes.
    `concurrency` is how many jobs of an `async def` function are at work at the same time.
    """

    def __init__(self, states: memoryview, max_result: int, concurrency: int) -> None:
        self._states = states
        self._max_result = max_result
        self._concurrency = concurrency
        self._loop: Any = None
        self._pending = 0  # bytes of results since the last flush

    def run(self, function: Loaded, jobs: Sequence[Job], outbox: Outbox) -> None:
        """Run all jobs of a message. Whatever a function raises ends its job, and nothing else."""
        if function.is_async:
            self._run_async(function, jobs, outbox)
        else:
            self._run_plain(function, jobs, outbox)

    def _run_plain(self, function: Loaded, jobs: Sequence[Job], outbox: Outbox) -> None:
        main, states, max_result, append = function.main, self._states, self._max_result, outbox.ended.append
        pending = 0
        started = perf_counter()
        for position, job in enumerate(jobs):
            states[position] = STARTED
            began = perf_counter()
            try:
                args, kwargs = job.args, job.kwargs
                arguments = _decode_args(args) if args else ()
                result = main(*arguments, **_decode_kwargs(kwargs)) if kwargs else main(*arguments)
                value = encode_value(result, max_result)
            except BaseException as error:  # noqa: BLE001 - a user's code runs here, and may call sys.exit as well
                ended = failed(position, job, error, began, started)
            else:
                ended = (position, job, value, None, perf_counter() - began, began - started)
                pending += len(value)
            append(ended)
            states[position] = ENDED
            if pending > MAX_PENDING:
                outbox.flush()
                pending = 0

    def _run_async(self, function: Loaded, jobs: Sequence[Job], outbox: Outbox) -> None:
        import asyncio  # 50 ms with uvloop, and many a child never needs them

        import uvloop

        if self._loop is None:  # kept, since a module may keep a client that belongs to it
            self._loop = uvloop.new_event_loop()
            asyncio.set_event_loop(self._loop)
        waiting: Iterator[tuple[int, Job]] = enumerate(jobs)
        started = perf_counter()
        # Once, unless a job cancels lanes that have not begun.
        while (first := next(waiting, None)) is not None:
            waiting = chain([first], waiting)
            lanes = [
                self._loop.create_task(self._run_lane(function, waiting, outbox, started))
                for _ in range(min(self._concurrency, len(jobs)))
            ]
            self._run_until_done(asyncio.gather(*lanes, return_exceptions=True), function.name)
        if len(outbox.ended) < len(jobs):
            raise RuntimeError("a job ended without a result")

    def _run_until_done(self, lanes: Any, name: str) -> None:
        while not lanes.done():
            try:
                self._loop.run_until_complete(lanes)
            except BaseException as error:  # noqa: BLE001 - from a task that a user's code left behind
                print(f"a task of {name} raised {error!r}", file=sys.stderr)  # noqa: T201

    async def _run_lane(
        self, function: Loaded, waiting: Iterator[tuple[int, Job]], outbox: Outbox, started: float
    ) -> None:
        """Run one job after another, until there are no more that wait."""
        import asyncio

        task = asyncio.current_task()
        for position, job in waiting:
            self._states[position] = STARTED
            began = perf_counter()
            try:
                arguments = _decode_args(job.args or b"[]")
                result = await function.main(*arguments, **_decode_kwargs(job.kwargs or b"{}"))
                value = encode_value(result, self._max_result)
            except BaseException as error:  # noqa: BLE001 - a user's code runs here, and may cancel its own task
                outbox.ended.append(failed(position, job, error, began, started))
                while task is not None and task.cancelling():
                    task.uncancel()
            else:
                outbox.ended.append((position, job, value, None, perf_counter() - began, began - started))
                self._pending += len(value)
            self._states[position] = ENDED
            if self._pending > MAX_PENDING:
                outbox.flush()
                self._pending = 0


def failed(position: int, job: Job, error: BaseException, began: float, started: float) -> Ended:
    """A job that ended by an exception. `began` and `started` are times of the job and of its message."""
    duration = perf_counter() - began
    told = describe_ours(error) if isinstance(error, (ResultNotJSON, ResultTooLarge)) else describe(error)
    return position, job, b"", told, duration, began - started
