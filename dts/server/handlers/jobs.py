"""`/jobs/`: single jobs."""

from __future__ import annotations

import asyncio
import hashlib
import re
import time
from contextlib import suppress
from dataclasses import replace
from typing import Annotated, Any

import msgspec

from dts.errors import BlockConflict, BlockTooLate, InvalidInput
from dts.model import (
    Block,
    JobState,
    KeyedRequest,
    Outcome,
    Run,
    User,
    block_id,
    derived_id,
    id_time,
    is_id,
    job_id,
    new_id,
    split_job_id,
)
from dts.server.access.limits import OverLimit
from dts.server.consts import MAX_RETRIEVABLES, MAX_WAIT, ErrorCode
from dts.server.ending.cancel import add_blocks, cancel_job, cancel_unfinished
from dts.server.handlers._base import signed
from dts.server.handlers.declare import declares
from dts.server.handlers.errors import ApiError
from dts.server.handlers.jobstate import waiting_fields
from dts.server.handlers.visibility import WorkHandler
from dts.server.intake.submission import JobParams, Submission
from dts.server.lookup.hub import ProgressReport
from dts.server.record.blocks import decode_block
from dts.server.record.results import STATES, part_results, result_fields

_SMALL = 16
"""Jobs in a block whose parts are read without a look at its outcome first."""

_KEY = re.compile(r"[\x20-\x7e]{1,64}")

_DATED = 3600.0
"""Seconds that the time in a new key which is an id may be away from now."""


class ErrorView(msgspec.Struct, omit_defaults=True):
    """Why a job failed. `reason` is a code when DTS itself ended it."""

    type: str
    message: str
    traceback: str = ""
    reason: str = ""


class ProgressView(msgspec.Struct):
    """How far a running job is, by its own word; `total` is 0 where it is not known."""

    done: float
    total: float


class JobView(msgspec.Struct, omit_defaults=True, kw_only=True):
    """A job as answered; from `success` on only when it has ended, or has failed and waits for its next attempt.

    `due` is when a delayed job is published, `waits_for` is what it waits for instead of a time: `limits.running`;
    `attempt` is then the one to come, and `error` the last one's. `unserved_route` is the route that a queued job waits
    for in vain, while no live worker serves it.
    """

    id: str
    run: str
    user: str | msgspec.UnsetType = msgspec.UNSET
    function: str
    args: list[Any]
    kwargs: dict[str, Any]
    created: float
    state: JobState
    unserved_route: str | msgspec.UnsetType = msgspec.UNSET
    due: float | msgspec.UnsetType = msgspec.UNSET
    waits_for: str | msgspec.UnsetType = msgspec.UNSET
    progress: ProgressView | msgspec.UnsetType = msgspec.UNSET
    success: bool | msgspec.UnsetType = msgspec.UNSET
    result: Any = msgspec.UNSET
    error: ErrorView | msgspec.UnsetType = msgspec.UNSET
    duration: float | msgspec.UnsetType = msgspec.UNSET
    attempt: int | msgspec.UnsetType = msgspec.UNSET
    worker: str | msgspec.UnsetType = msgspec.UNSET
    version: str | msgspec.UnsetType = msgspec.UNSET
    started: float | msgspec.UnsetType = msgspec.UNSET
    partials: list[Any] | msgspec.UnsetType = msgspec.UNSET


class StatisticsView(msgspec.Struct):
    """How many jobs are in which state, and how many in all."""

    total: int
    accepted: int
    queued: int
    running: int
    delayed: int
    succeeded: int
    failed: int
    cancelled: int


class JobsView(msgspec.Struct):
    """What is there to fetch, and how many jobs are in which state."""

    retrievables: list[str]
    statistics: StatisticsView


class CollectedIds(msgspec.Struct, forbid_unknown_fields=True):
    """Ids of jobs whose results the caller has, at most 1000 at once."""

    ids: Annotated[list[str], msgspec.Meta(max_length=MAX_RETRIEVABLES)]


class CollectedView(msgspec.Struct):
    """How many jobs were collected and had not been before."""

    jobs: int


class CancelQuery(msgspec.Struct, forbid_unknown_fields=True):
    """Whose jobs to cancel: those of one function, or `all`."""

    function: str | None = None
    all: bool = False


class CancelledView(msgspec.Struct):
    """How many jobs were cancelled, of how many runs."""

    cancelled: int
    runs: int


class WaitQuery(msgspec.Struct, forbid_unknown_fields=True):
    """How long to wait for the end of a job, in seconds; at most 30."""

    wait: Annotated[float, msgspec.Meta(ge=0)] = 0.0


class JobsHandler(WorkHandler):
    """`/jobs/`: submit jobs, and see what is there to fetch."""

    @signed
    @declares(
        answer=str | list[str],
        body=JobParams | list[JobParams],
        statuses=(201,),
        errors=(
            ErrorCode.FUNCTION_NOT_FOUND,
            ErrorCode.FUNCTION_DISABLED,
            ErrorCode.KEY_CONFLICT,
            ErrorCode.RUN_NOT_OPEN,
        ),
    )
    async def post(self, user: User) -> None:
        """Store one job or a list of them; the answer is its id, or the list of ids in the same order.

        A repeat under the same `Idempotency-Key` makes no more jobs, and is answered with the ids of the first.
        """
        params = self.params(JobParams | list[JobParams])  # type: ignore[arg-type]
        jobs = params if isinstance(params, list) else [params]
        size = self.context.settings.block_size
        if not 0 < len(jobs) <= size:
            code = ErrorCode.TOO_LARGE if jobs else ErrorCode.ARGUMENT_INVALID
            raise ApiError(code, f"params holds {len(jobs)} jobs: send 1 to {size}")
        key, now = self._idempotency_key(), time.time()
        if key is None:
            submission = Submission(jobs, user, now, size)
            await self._accept(user, submission)
        else:
            submission = await self._accept_once(user, jobs, key, now)
        self.answer(submission.ids if isinstance(params, list) else submission.ids[0], 201)

    def _idempotency_key(self) -> str | None:
        key = self.request.headers.get("Idempotency-Key")
        if key is not None and not _KEY.fullmatch(key):
            raise ApiError(ErrorCode.ARGUMENT_INVALID, "Idempotency-Key must be 1 to 64 printable ASCII characters")
        return key

    async def _accept_once(self, user: User, jobs: list[JobParams], key: str, now: float) -> Submission:
        """Store what is asked for under a key unless that was done before; returns it as it was first asked for."""
        digest = hashlib.blake2b(self.body(), digest_size=16).digest()
        run_id = derived_id(key, user.id) if is_id(key) else ""
        if run_id and (abs(id_time(key) - now) < _DATED or await self.context.store.get_run(run_id)):
            return await self._accept_dated(user, jobs, run_id, digest)
        return await self._accept_keyed(user, jobs, KeyedRequest(user.id, key, new_id(), digest, now))

    async def _accept_dated(self, user: User, jobs: list[JobParams], run_id: str, digest: bytes) -> Submission:
        """Store what is asked for under a key that is an id: the run's follows from it, so nothing is remembered."""
        size = self.context.settings.block_size
        submission = Submission(jobs, user, id_time(run_id), size, run_id=run_id, seal=digest)
        try:
            if await self._accept(user, submission):
                return submission
        except BlockConflict as error:
            raise _key_conflict() from error
        except (ApiError, OverLimit):
            if not await self._is_stored(submission):
                raise
        before = await self.context.store.get_run(run_id)
        return submission.again(before) if before is not None else submission

    async def _accept_keyed(self, user: User, jobs: list[JobParams], request: KeyedRequest) -> Submission:
        """Store what is asked for under a key of any kind, which is remembered once the jobs are let in."""
        store, size = self.context.store, self.context.settings.block_size
        refusal: InvalidInput | None = None
        try:
            submission = Submission(jobs, user, request.created, size, run_id=request.run)
        except InvalidInput as error:
            refusal = error  # it may be a deadline: if that was not over at first, what was accepted then stays so
            submission = Submission(jobs, user, 0.0, size, run_id=request.run)
        first = await store.find_request(user.id, request.key)
        if first is None:
            if refusal is not None:
                raise refusal
            try:
                await self._accept(user, submission, request)
                return submission
            except _KeyTaken as taken:
                first = taken.request
        if first.digest != request.digest:
            raise _key_conflict()
        before = await store.get_run(first.run)
        of_first = replace(submission.run, id=first.run, created=first.created)
        submission = submission.again(replace(of_first, block_size=before.block_size) if before else of_first)
        if not await self._is_stored(submission):
            await self._accept(user, submission)  # the first request broke off somewhere: completes it
        return submission

    async def _remember(self, request: KeyedRequest) -> None:
        first = await self.context.store.remember_request(request)
        if first != request:
            raise _KeyTaken(first)

    async def _is_stored(self, submission: Submission) -> bool:
        """Whether all of it was accepted before."""
        count = submission.block_count
        return len(await self.context.store.list_blocks(submission.run.id, limit=count)) == count

    async def _accept(self, user: User, submission: Submission, request: KeyedRequest | None = None) -> bool:
        """Store jobs and have them published, as far as that was not done before; returns whether all are new.

        The `request` that they are asked for with is remembered first, when rights and limits allow them.

        Raises:
            _KeyTaken: another request came before, under the same key.
        """
        functions = {name: await self.usable_function(user, name) for name in submission.functions}
        blocks = submission.blocks(self.context.settings)
        counted = [(functions[block.function], block.count) for block, _ in blocks]
        new = [block for block, _ in blocks]
        try:
            async with self.context.limiter.jobs(user, counted):
                if request is not None:
                    await self._remember(request)
                claim = self.context.publisher.claim()
                added = await add_blocks(self.context.store, new, run=submission.run, claim=claim)
        except BlockTooLate as error:
            raise ApiError(ErrorCode.RUN_NOT_OPEN, "these jobs were cancelled while they were accepted") from error
        self.context.recent.add(submission.run, new)
        for (block, batch), is_new in zip(blocks, added, strict=True):
            if is_new:
                self.context.publisher.submit(block, batch, functions[block.function], claim)
        await asyncio.sleep(0)  # the jobs are on their way before the answer is
        return all(added)

    @signed
    @declares(answer=JobsView)
    async def get(self, user: User) -> None:
        """What became of the caller's jobs: how many are in which state, and the ids of those to fetch."""
        retrievables, statistics = await asyncio.gather(
            self.context.store.retrievables(user.id, limit=MAX_RETRIEVABLES),
            self.context.store.user_statistics(user.id),
        )
        self.answer({"retrievables": retrievables, "statistics": statistics.as_dict()})

    @signed
    @declares(answer=CancelledView, query=CancelQuery)
    async def delete(self, user: User) -> None:
        """Cancel the caller's unfinished jobs, those of a function or all, with the runs that they are of."""
        query = self.query(CancelQuery)
        if (query.function is None) != query.all:
            raise ApiError(ErrorCode.ARGUMENT_MISSING, "say which jobs to cancel: ?function=ns/func, or ?all=true")
        context = self.context
        cancelled, runs = await cancel_unfinished(context.store, context.broker, user=user.id, function=query.function)
        for run_id in runs:
            context.hub.wake(run_id)
        self.answer({"cancelled": cancelled, "runs": len(runs)})


class CollectedJobsHandler(WorkHandler):
    """`/jobs/collected`: results that the caller has."""

    @signed
    @declares(answer=CollectedView, body=CollectedIds)
    async def post(self, user: User) -> None:
        """Take ended jobs of the caller's off the retrievables; the answer says how many were on them."""
        ids = self.params(CollectedIds).ids
        self.answer({"jobs": await self.context.store.collect_jobs(user.id, ids)})


class JobHandler(WorkHandler):
    """`/jobs/ID`: one job."""

    @signed
    @declares(answer=JobView, query=WaitQuery)
    async def get(self, user: User, text: str) -> None:
        """The job; with `?wait=S` not before it has ended or S seconds are over."""
        deadline = time.monotonic() + self.number_argument("wait", 0.0, most=MAX_WAIT)
        run, block, index = await self._find(user, text)
        async with self.context.hub.waiter(run.id) as news:
            while True:
                news.clear()
                fields = await self._result(block, index)
                remaining = deadline - time.monotonic()
                if fields is not None or remaining <= 0:
                    break
                await wait_for_news(news, remaining)
        self.answer(await self._describe(block, index, fields))

    @signed
    @declares(answer=JobView, errors=(ErrorCode.JOB_ENDED,))
    async def delete(self, user: User, text: str) -> None:
        """Cancel the job. One that was cancelled before is cancelled still; one that ended otherwise is a conflict."""
        self.answer(await self.cancel(user, text))

    async def cancel(self, user: User, text: str) -> dict[str, object]:
        """Cancel the caller's job of that id; returns it as it is then."""
        run, block, index = await self._find(user, text)
        outcome = await self._outcome(block)
        name = job_id(run.id, block.first + index)
        told = self.context.hub.progress_of(block.id, index) or ProgressReport(0.0, 0.0)
        ended = await cancel_job(
            self.context.store,
            self.context.broker,
            outcome,
            index,
            name,
            partials=bytes(told.partials),
            version=told.version,
        )
        description = await self._describe(block, index, await self._result(block, index))
        if not ended and description["state"] != JobState.CANCELLED.value:
            state = description["state"]
            raise ApiError(ErrorCode.JOB_ENDED, f"job {text} cannot be cancelled: it has {state} already")
        self.context.hub.wake(run.id)
        return description

    async def _find(self, user: User, text: str) -> tuple[Run, Block, int]:
        """The user's job of that id: its run, its block and its index there."""
        missing = ApiError(ErrorCode.NOT_FOUND, f"there is no job {text[:80]}")
        parts = split_job_id(text)
        if parts is None:
            raise missing
        run_id, job_number = parts
        store = self.context.store
        # Which block it is depends on the run's block size, nearly always this server's: ask for both at once.
        number, index = divmod(job_number, self.context.settings.block_size)
        run: Run | None
        block: Block | None
        if (known := self.context.recent.get(block_id(run_id, number))) is not None:
            run, block = known
        else:
            run, block = await asyncio.gather(store.get_run(run_id), store.get_block(block_id(run_id, number)))
        if run is None or not self.may_see(user, run):
            raise missing
        if run.block_size != self.context.settings.block_size:
            number, index = divmod(job_number, run.block_size)
            block = await store.get_block(block_id(run_id, number))
        if block is None or index >= block.count:
            raise missing
        return run, block, index

    async def _outcome(self, block: Block) -> Outcome:
        outcome = await self.context.store.get_outcome(block.id)
        if outcome is None:
            raise ApiError(ErrorCode.INTERNAL_ERROR, f"the outcome of block {block.id} is missing in the store")
        return outcome

    async def _result(self, block: Block, index: int) -> dict[str, object] | None:
        """How the job with that index ended; None if it has not."""
        store = self.context.store
        # The parts of a small block are small: reading them at once is one round trip less for a single job.
        if block.count > _SMALL and not (await self._outcome(block)).ended >> index & 1:
            return None
        for part in await store.get_parts(block.id):
            if part.jobs >> index & 1:
                for batch, result in part_results(part):
                    if result.index == index:
                        return {"state": STATES[result.status]} | result_fields(batch, result)
        return None

    async def _describe(self, block: Block, index: int, result: dict[str, object] | None) -> dict[str, object]:
        job = decode_block(block).jobs[index]
        description: dict[str, object] = {
            "id": job_id(block.run, block.first + index),
            "run": block.run,
            **({"user": block.user} if self.everybodys else {}),
            "function": block.function,
            "args": msgspec.Raw(job.args or b"[]"),
            "kwargs": msgspec.Raw(job.kwargs or b"{}"),
            "created": round(block.created, 6),
        }
        if result is None:
            block = await self.context.store.get_block(block.id) or block  # it may be published by now
            result = await waiting_fields(self.context.store, self.context.hub, block, index)
            if result["state"] == JobState.QUEUED.value and (route := await self.unserved_route(block.function)):
                result["unserved_route"] = route
        return description | result


async def wait_for_news(news: asyncio.Event, seconds: float) -> None:
    """Wait until there may be news, at most `seconds`."""
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await news.wait()


class _KeyTaken(Exception):
    """A key stands for an earlier request."""

    def __init__(self, request: KeyedRequest) -> None:
        super().__init__()
        self.request = request


def _key_conflict() -> ApiError:
    return ApiError(
        ErrorCode.KEY_CONFLICT,
        "another request was sent under this Idempotency-Key: repeat that one as it was, or choose a new key",
    )
