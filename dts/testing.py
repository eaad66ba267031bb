"""Runs functions as a worker does, for their tests: in a child process, with retries, limits and `dts.worker.context`.

    from dts import testing

    def test_stats():
        assert testing.run("text/stats", "two words") == {"words": 2}
        outcome = testing.outcome("text/stats", "", max_attempts=3)
        assert (outcome.error["type"], outcome.attempts) == ("ValueError", 3)

Nothing else has to run: each call starts a worker of its own, without a server, in a temporary folder. Functions are
found in the folder `functions`, or in that of a path such as `Path("functions/text/stats.py")`. Options are those of
attempts, such as `timeout`. The next attempt follows at once, however long it would have to wait elsewhere.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
from collections.abc import Coroutine, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from dts.broker import Broker, Consumer, Message, open_broker
from dts.client.jsonvalue import encode_args, encode_kwargs
from dts.config import WorkerSettings
from dts.errors import DtsError, InvalidInput, JobFailed
from dts.model import DEFAULT_ROUTE, new_id, parse_function_name
from dts.model.attempts import ATTEMPT_OPTIONS
from dts.runtime.tasks import wait_first
from dts.wire import codec
from dts.wire.dts_pb2 import RETRY, SUCCEEDED, JobBatch, Options, Result, ResultBatch
from dts.wire.queues import RESULTS, jobs_queue
from dts.worker.link.board import MAX_JOBS
from dts.worker.worker import Worker

__all__ = ["Outcome", "outcome", "run", "run_many"]

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a job. `error` has type, message, traceback and reason, and is empty if it has succeeded."""

    success: bool
    result: Any = None
    error: Mapping[str, str] = field(default_factory=dict)
    attempts: int = 1
    duration: float = 0.0
    """Seconds that the last attempt took."""
    partials: Sequence[Any] = ()
    """The values that a generator has yielded."""


def run(function: str | Path, *args: Any, kwargs: Mapping[str, Any] | None = None, **options: Any) -> Any:
    """What the function returns for these arguments.

    Raises:
        JobFailed: it failed; `error` says why.
        InvalidInput: an argument is not a JSON value, there is no such option, or the name is not a function's.
    """
    ended = outcome(function, *args, kwargs=kwargs, **options)
    if not ended.success:
        raise JobFailed(str(function), dict(ended.error))
    return ended.result


def outcome(function: str | Path, *args: Any, kwargs: Mapping[str, Any] | None = None, **options: Any) -> Outcome:
    """What becomes of a job with these arguments. Raises InvalidInput as `run` does."""
    [ended] = _run_all(function, [(args, kwargs or {})], options)
    return ended


def run_many(function: str | Path, calls: Sequence[Sequence[Any]], **options: Any) -> list[Outcome]:
    """What becomes of a job for each list of arguments: all of one message, as `main_many` gets them.

    Raises:
        InvalidInput: as `run` does, or there are too many calls for a message.
    """
    return _run_all(function, [(args, {}) for args in calls], options)


def _run_all(
    function: str | Path, calls: Sequence[tuple[Sequence[Any], Mapping[str, Any]]], options: dict[str, Any]
) -> list[Outcome]:
    if len(calls) > MAX_JOBS:
        raise InvalidInput(f"{len(calls)} calls are too many for one message: at most {MAX_JOBS}")
    folder, name = _find(function)
    batch = JobBatch(block=f"{(run_id := new_id())}-0", run=run_id, function=name, options=_as_options(options))
    for index, (args, kwargs) in enumerate(calls):
        batch.jobs.add(
            index=index,
            args=encode_args(list(args)),
            kwargs=encode_kwargs(dict(kwargs)) if kwargs else b"",
        )
    return _wait(_work(folder, batch)) if calls else []


def _find(function: str | Path) -> tuple[Path, str]:
    """The functions directory and the name of a function."""
    if isinstance(function, str):
        return Path("functions").absolute(), str(parse_function_name(function))
    path = function.absolute()
    return path.parent.parent, str(parse_function_name(f"{path.parent.name}/{path.stem}"))


def _as_options(given: Mapping[str, Any]) -> Options:
    names = [option.name for option in ATTEMPT_OPTIONS]
    if unknown := set(given).difference(names):
        raise InvalidInput(f"there is no option {', '.join(sorted(unknown))}: the options are {', '.join(names)}")
    try:
        return Options(**given)
    except (TypeError, ValueError) as error:
        raise InvalidInput(f"an option has a value that it cannot have: {error}") from None


def _wait(work: Coroutine[Any, Any, T]) -> T:
    """The result of a coroutine, also where an event loop runs already, as in a notebook or an async test."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(work)
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, work).result()


async def _work(functions: Path, batch: JobBatch) -> list[Outcome]:
    """Have a worker of its own run the jobs of a batch."""
    with tempfile.TemporaryDirectory(prefix="dts-testing-") as folder:
        settings = WorkerSettings(
            name="testing",
            processes=1,
            functions=str(functions),
            versions=os.path.join(folder, "versions"),
            timekeeper_timeout=0.0,  # there is none
        )
        async with (
            open_broker(f"sqlite:///{folder}/queue.db") as broker,
            await broker.consume(RESULTS, prefetch=1000) as results,
            Worker(settings, broker) as worker,
        ):
            await _publish(broker, batch)
            collecting = asyncio.create_task(_collect(broker, results, batch))
            await wait_first(collecting, worker.failed)
            if not collecting.done():
                collecting.cancel()
                raise DtsError("the worker that runs the function has failed: its log says why")
            ended = collecting.result()
    return [_outcome_of(ended[job.index]) for job in batch.jobs]


async def _publish(broker: Broker, batch: JobBatch) -> None:
    headers: dict[str, str | int] = {
        "block": batch.block,
        "run": batch.run,
        "function": batch.function,
        "count": len(batch.jobs),
        "number": 0,
    }
    await broker.publish(jobs_queue(DEFAULT_ROUTE), [Message(*codec.encode(batch), headers)])


async def _collect(broker: Broker, results: Consumer, batch: JobBatch) -> dict[int, Result]:
    """The last result of each job, by index; those that are worth another attempt get it at once."""
    ended: dict[int, Result] = {}
    while len(ended) < len(batch.jobs):
        deliveries = await results.receive(100)
        for delivery in deliveries:
            part = codec.decode(ResultBatch, delivery.message.body, delivery.message.content_encoding)
            again = JobBatch(block=batch.block, run=batch.run, function=batch.function, options=batch.options)
            for result in part.results:
                if result.status != RETRY:
                    ended.setdefault(result.index, result)
                    continue
                job = again.jobs.add()
                job.CopyFrom(batch.jobs[result.index])
                job.attempt, job.kills = (result.attempt or 1) + 1, result.kills
            if again.jobs:
                await _publish(broker, again)
        await results.ack(deliveries)
    return ended


def _outcome_of(result: Result) -> Outcome:
    success, error = result.status == SUCCEEDED, result.error
    named = {"type": error.type, "message": error.message, "traceback": error.traceback, "reason": error.reason}
    return Outcome(
        success,
        msgspec.json.decode(result.value) if success else None,
        {} if success else named,
        result.attempt or 1,
        result.duration,
        msgspec.json.decode(result.partials) if result.partials else (),
    )
