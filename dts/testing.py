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
from collections.abc import Coroutine, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from dts.client.jsonvalue import encode_args, encode_kwargs
from dts.errors import InvalidInput, JobFailed
from dts.local.worker import open_local_worker
from dts.model import new_id, parse_function_name
from dts.model.attempts import ATTEMPT_OPTIONS
from dts.wire.dts_pb2 import SUCCEEDED, JobBatch, Options, Result
from dts.worker.link.board import MAX_JOBS

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
    async with open_local_worker(functions) as worker:
        ended = {result.index: result for _, results in await worker.run([(0, batch)]) for result in results}
    return [_outcome_of(ended[job.index]) for job in batch.jobs]


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
