"""DtsClient: a function over every line of an input, or single jobs, from a program.

client = DtsClient("alice", secret, "http://127.0.0.1:8000")
summary = await client.run("text/upper", TextFileIOComponent("in.txt"), print)
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterable, Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self, cast

import msgspec

from dts.auth import Credentials
from dts.client.components import DataSource, IterableComponent, TextFileIOComponent
from dts.client.jsonvalue import encode_args, encode_kwargs
from dts.client.processors import FunctionProcessor, ResultFunction, ResultProcessor
from dts.client.run.attached import attached_spec
from dts.client.run.progress import Progress
from dts.client.run.session import RunSession, RunSpec
from dts.client.stream import stream
from dts.client.transport import Transport
from dts.errors import ClientError, InvalidInput, JobFailed
from dts.model import JobState, check_user_id, new_id, parse_function_name

logger = logging.getLogger(__name__)

NUM_MAX_COROUTINES = 8
"""Blocks that are uploaded at once, unless told otherwise."""

SNOOZE_INTERVAL = 0.05
"""Seconds between two requests for results, unless told otherwise: many results share the cost of a request."""

_SPARE_CONNECTIONS = 8  # beside the uploads: results, receipts, single jobs

_COLLECTED_AT_ONCE = 1000  # ids in a request, as many as the server takes
_LONGEST_WAIT = 20.0  # seconds that the server may wait for a job to end, in one request
_LEAVE_TIMEOUT = 5.0  # seconds to tell the server what was read

Source = DataSource | Path | Iterable[Any] | AsyncIterable[Any]
Processor = ResultProcessor | ResultFunction


@dataclass(frozen=True, slots=True)
class Summary:
    """What a run came to: numbers of lines, and how many seconds it took."""

    run: str
    lines: int
    succeeded: int
    failed: int
    seconds: float


class Job(str):
    """A job's id, which also has its result."""

    _client: DtsClient

    def __new__(cls, job_id: str, client: DtsClient) -> Job:
        """The job of that id."""
        job = super().__new__(cls, job_id)
        job._client = client
        return job

    async def result(self, timeout: float | None = None) -> Any:
        """What the function returned; waits `timeout` seconds for it, for ever if that is None.

        Raises:
            TimeoutError: it has not ended by then.
            JobFailed: it failed, or was cancelled; its `error` says why.
            RequestRefused: there is no such job.
        """
        async with asyncio.timeout(timeout):
            while True:
                job = await self._client.get(self, wait=_LONGEST_WAIT)
                if JobState(job["state"]).terminal:
                    break
        if not job["success"]:
            raise JobFailed(self, job["error"])
        return job["result"]


def as_source(source: Source) -> DataSource:
    """What a run reads its lines from: a component as it is, a Path as a file of text, else the items of an iterable.

    Raises:
        InvalidInput: a text, bytes or a dict, whose characters or keys nobody means.
    """
    if isinstance(source, DataSource):
        return source
    if isinstance(source, Path):
        return TextFileIOComponent(source)
    if isinstance(source, (str, bytes, bytearray, Mapping)):
        kind = type(source).__name__
        raise InvalidInput(f"a data source cannot be a {kind}: give a list of items, or Path(…) for a file")
    return IterableComponent(source)


class DtsClient:
    """A user's connection to a DTS server. Use it in one event loop, and close it (`async with` does).

    `function`, `data_source` and `result_processor` may be given here or to `run`. A data source is a component, or
    any iterable of arguments, asynchronous or not. A result processor is a `ResultProcessor`, or a function that
    takes one result as a dict. `give_up_after` is for how many seconds an unreachable server is waited for; None is
    for ever. `notify` gets a sentence when the server goes away and comes back, and when a limit holds
    requests up. With `detach` a run that is
    interrupted goes on at the server. `cacert` is a file with the authorities that the server's certificate may be of.

    Raises:
        ConfigError: `server_url` is not the URL of a server.
        InvalidName: `user_id` cannot be a user's.
    """

    def __init__(
        self,
        user_id: str,
        secret: str,
        server_url: str,
        num_max_coroutines: int = NUM_MAX_COROUTINES,
        snooze_interval: float = SNOOZE_INTERVAL,
        *,
        function: str | None = None,
        data_source: Source | None = None,
        result_processor: Processor | None = None,
        give_up_after: float | None = None,
        detach: bool = False,
        notify: Callable[[str], None] = logger.warning,
        cacert: str | None = None,
    ) -> None:
        if num_max_coroutines < 1:
            raise InvalidInput("num_max_coroutines must be at least 1")
        self.progress = Progress()
        self._function = function
        self._source = data_source
        self._processor = result_processor
        self._coroutines = num_max_coroutines
        self._snooze_interval = snooze_interval
        self._detach = detach
        self._notify = notify
        self._session: RunSession | None = None
        self._read: list[str] = []
        self._handing_back: asyncio.Task[None] | None = None
        self._transport = Transport(
            server_url,
            Credentials(check_user_id(user_id), secret),
            max_clients=num_max_coroutines + _SPARE_CONNECTIONS,
            give_up_after=give_up_after,
            notify=notify,
            cacert=cacert,
        )

    @property
    def transport(self) -> Transport:
        """Sends requests to the server."""
        return self._transport

    @property
    def held_by(self) -> str:
        """The limit that a request waits for now, as the server puts it; empty when none does."""
        return self._transport.held_by

    async def run(
        self,
        function: str | None = None,
        data_source: Source | None = None,
        result_processor: Processor | None = None,
    ) -> Summary:
        """Run the function over every line; each has exactly one result when this returns.

        When it raises, or is cancelled, the run is cancelled on the server unless `detach` is set.

        Raises:
            InvalidInput: something is missing, or the function's name is not one.
            RequestRefused: the server refused it, such as for a function that is not registered.
            ServerUnavailable: the server could not be reached for `give_up_after` seconds.
            RunCancelled: somebody else cancelled the run; what the server had accepted has its results.
            ClientError: the input cannot be read, or the output cannot be written.
        """
        name = str(parse_function_name(function or self._function))
        source = data_source if data_source is not None else self._source
        processor = result_processor if result_processor is not None else self._processor
        if source is None or processor is None:
            raise InvalidInput("a run needs a data_source and a result_processor")
        return await self.run_spec(
            RunSpec(
                name,
                as_source(source),
                processor if isinstance(processor, ResultProcessor) else FunctionProcessor(processor),
            )
        )

    async def run_spec(self, spec: RunSpec) -> Summary:
        """Do a run of which all is said; as `run`."""
        done = self.progress = Progress(recorder=spec.recorder)  # another run may put its own there
        session = self._session = RunSession(
            self._transport,
            spec,
            coroutines=self._coroutines,
            snooze_interval=self._snooze_interval,
            detach=self._detach,
            progress=done,
            notify=self._notify,
        )
        await session.run()
        return Summary(done.run, done.lines, done.succeeded, done.failed, done.seconds)

    def stop(self) -> None:
        """Have the run that began last read and send no more: it returns once what is under way is collected."""
        if self._session is not None:
            self._session.stop()

    def map(self, function: str, data_source: Source, *, ordered: bool = False) -> AsyncGenerator[dict[str, Any], None]:
        """The row of every line, as they come or in order.

            async for row in client.map("text/upper", ["one", "two"]):
                print(row["line"], row["result"])

        The run is cancelled when they are not read to the end. Raises as `run`.
        """
        return stream(lambda processor: self.run(function, data_source, processor), ordered=ordered)

    def attach(self, run: str, *, again: bool = False) -> AsyncGenerator[dict[str, Any], None]:
        """The rows of a run that was begun elsewhere; with `again` also those that were collected before.

        The run goes on when they are not read to the end.

        Raises:
            RequestRefused: there is no such run.
        """

        async def collect(processor: ResultProcessor) -> None:
            spec, _ = await attached_spec(self._transport, run, processor, again=again)
            await self.run_spec(replace(spec, keep=True))

        return stream(collect)

    def job(self, job_id: str) -> Job:
        """The job of that id."""
        return Job(job_id, self)

    async def submit(self, function: str, *args: Any, **kwargs: Any) -> Job:
        """Submit one job; returns its id, which also has its result: `await job.result(timeout=10)`.

        When the server's answer is lost it is submitted again, under the same idempotency key: there is one job.

        Raises:
            InvalidInput: an argument is not a JSON value, or the function's name is not one.
            RequestRefused: the server refused it.
            ServerUnavailable: it was given up; it may have been accepted all the same.
        """
        params = {
            "function": str(parse_function_name(function)),
            "args": msgspec.Raw(encode_args(list(args))),
            "kwargs": msgspec.Raw(encode_kwargs(kwargs)),
        }
        headers = {"Idempotency-Key": new_id()}  # an id costs the server less than any other key
        return Job(await self._transport.call("POST", "/jobs/", params, headers=headers), self)

    async def get(self, job_id: str, *, wait: float = 0.0, collect: bool = True) -> dict[str, Any]:
        """A job as the server shows it: id, function, state and, once it has ended, its result.

        `wait` is how many seconds (30 at most) the server may wait for the job to end. A job that has ended is taken
        off the retrievables, soon and in the background, unless `collect` is False; it can be read again all the same.

        Raises:
            RequestRefused: there is no such job.
            ServerUnavailable: it was given up.
        """
        query = {"wait": f"{wait:g}"} if wait else None
        job: dict[str, Any] = await self._transport.call("GET", f"/jobs/{job_id}", query=query, wait=wait)
        if collect and JobState(job["state"]).terminal:
            self._read.append(str(job_id))
            if self._handing_back is None or self._handing_back.done():
                self._handing_back = asyncio.create_task(self._hand_back(), name="hand back")
        return job

    async def _hand_back(self) -> None:
        """Have what was read taken off the retrievables, once some has gathered: each request costs a durable write."""
        while self._read:
            await asyncio.sleep(self._snooze_interval)
            ids, self._read = self._read, []
            try:
                await self._collect(ids, give_up_after=_LEAVE_TIMEOUT)
            except ClientError as error:
                logger.info("%d jobs that were read stay retrievable: %s", len(ids), error)

    async def retrievables(self) -> list[str]:
        """Ids of jobs of one's own that have ended and are not collected: the first 1000, of the oldest runs.

        Raises:
            ServerUnavailable: it was given up.
        """
        return cast(list[str], (await self._transport.call("GET", "/jobs/"))["retrievables"])

    async def collect(self, job_ids: Iterable[str]) -> int:
        """Take ended jobs off the retrievables; returns how many of them were on it.

        Raises:
            ServerUnavailable: it was given up.
        """
        return await self._collect([str(job_id) for job_id in job_ids], give_up_after=None)

    async def _collect(self, ids: list[str], *, give_up_after: float | None) -> int:
        jobs = 0
        for first in range(0, len(ids), _COLLECTED_AT_ONCE):
            params = {"ids": ids[first : first + _COLLECTED_AT_ONCE]}
            answer = await self._transport.call("POST", "/jobs/collected", params, give_up_after=give_up_after)
            jobs += answer["jobs"]
        return jobs

    async def cancel(self, job_id: str) -> None:
        """Cancel a job.

        Raises:
            RequestRefused: there is no such job, or it has ended.
            ServerUnavailable: it was given up.
        """
        await self._transport.call("DELETE", f"/jobs/{job_id}")

    def close(self) -> None:
        """Close the connections. What the server was not told of by then stays retrievable."""
        if self._handing_back is not None:
            self._handing_back.cancel()
        self._transport.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._handing_back is not None and error is None:
            await self._handing_back
        self.close()
