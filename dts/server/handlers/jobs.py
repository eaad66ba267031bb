"""`/jobs/`: single jobs."""

from __future__ import annotations

import asyncio
import hashlib
import re
import time
from collections.abc import Collection
from contextlib import suppress
from dataclasses import replace
from typing import Annotated, Any, cast

import msgspec

from dts.errors import BlockConflict, BlockTooLate, InvalidInput
from dts.model import (
    Block,
    Candidate,
    JobState,
    KeyedRequest,
    User,
    bitmap,
    block_id,
    derived_id,
    id_time,
    is_id,
    job_id,
    new_id,
    new_outcome,
    split_job_id,
)
from dts.server.access.limits import OverLimit
from dts.server.consts import MAX_RETRIEVABLES, MAX_WAIT, ErrorCode
from dts.server.ending.cancel import cancel_job, cancel_unfinished
from dts.server.ending.late_blocks import add_blocks
from dts.server.handlers._base import authorized
from dts.server.handlers.declare import declares
from dts.server.handlers.errors import ApiError
from dts.server.handlers.jobstate import waiting_fields
from dts.server.handlers.visibility import WorkHandler
from dts.server.intake.following import follow
from dts.server.intake.memo import answer_from_memo
from dts.server.intake.submission import JobParams, Submission
from dts.server.intake.unique import AnotherRequest, UniqueJobs
from dts.server.lookup.hub import ProgressReport
from dts.server.publish.waiting import Waiting, WaitingJob
from dts.server.record.blocks import decode_block
from dts.server.record.results import STATES, cancelled_candidate, part_results, result_fields
from dts.store.contract.results import BlockRecord

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

    `waiting` says what a job waits for that is not at work. `due` is when a delayed job is published, `waits_for`
    is what it waits for instead of a time: `limits.running`; `attempt` is then the one to come, and `error` the
    last one's. `unserved_route` is the route that a job waits for in vain, while no live worker serves it.
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
    waiting: Waiting | msgspec.UnsetType = msgspec.UNSET
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
    memo: bool | msgspec.UnsetType = msgspec.UNSET


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


class RetrievablesQuery(msgspec.Struct, forbid_unknown_fields=True):
    """Which of the ids of jobs to fetch: so many, from the one that follows the job `after`."""

    limit: Annotated[int, msgspec.Meta(ge=1, le=MAX_RETRIEVABLES)] = MAX_RETRIEVABLES
    after: str | None = None


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

    _unique: UniqueJobs | None = None
    _places: list[int]

    @authorized
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
        ids = await self._ids_of(user, jobs)
        self.answer(ids if isinstance(params, list) else ids[0], 201)

    async def _ids_of(self, user: User, jobs: list[JobParams]) -> list[str]:
        """The ids of jobs, those that there were, too, where a function is `unique`; the others are made."""
        names = {job.function for job in jobs}
        found = [await self.context.catalogue.get(name) for name in names]
        if all(function is None or function.unique is None for function in found):
            return (await self._submit(user, jobs)).ids  # a repeat is answered also after the rights are gone
        functions = {name: await self.usable_function(user, name) for name in names}
        key = self._idempotency_key()
        repeat = None if key is None else (key, self._digest())
        self._unique = unique = UniqueJobs(self.context.store, user, jobs, functions, repeat)
        self._places = places = await unique.find()
        made = (await self._submit(user, [jobs[place] for place in places])).ids if places else []
        return await unique.ids(places, made)

    async def _submit(self, user: User, jobs: list[JobParams]) -> Submission:
        key, now = self._idempotency_key(), time.time()
        if key is not None:
            return await self._accept_once(user, jobs, key, now)
        submission = Submission(jobs, user, now, self.context.settings.block_size)
        await self._accept(user, submission)
        return submission

    def _idempotency_key(self) -> str | None:
        key = self.request.headers.get("Idempotency-Key")
        if key is not None and not _KEY.fullmatch(key):
            raise ApiError(ErrorCode.ARGUMENT_INVALID, "Idempotency-Key must be 1 to 64 printable ASCII characters")
        return key

    def _digest(self) -> bytes:
        return hashlib.blake2b(self.body(), digest_size=16).digest()

    async def _accept_once(self, user: User, jobs: list[JobParams], key: str, now: float) -> Submission:
        """Store what is asked for under a key unless that was done before; returns it as it was first asked for."""
        digest = self._digest()
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
            raise AnotherRequest from error
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
            raise AnotherRequest
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
        for name in submission.following.functions:
            await self.usable_function(user, name)
        versions = {name: function.active_version for name, function in functions.items()}
        blocks = submission.blocks(self.context.settings, versions)
        counted = [(functions[block.function], block.count) for block, _ in blocks]
        new = [block for block, _ in blocks]
        store = self.context.store
        answers = [await answer_from_memo(store, functions[block.function], block, batch) for block, batch in blocks]
        try:
            async with self.context.limiter.jobs(user, counted):
                if request is not None:
                    await self._remember(request)
                await follow(self.context.store, submission.run.id, submission.following)
                lost = await self._unique.take(self._places, submission.ids) if self._unique else set()
                claim = await self.context.publisher.claim((block, functions[block.function]) for block in new)
                added = await add_blocks(self.context.store, new, run=submission.run, claim=claim)
        except BlockTooLate as error:
            raise ApiError(ErrorCode.RUN_NOT_OPEN, "these jobs were cancelled while they were accepted") from error
        for stored, is_new, answer in zip(blocks, added, answers, strict=True):
            if is_new:
                ended = [answer] if answer else []
                ended += cancelled_jobs(stored[0], lost)
                await self.publish(stored, functions[stored[0].function], claim, ended)
        await asyncio.sleep(0)  # the jobs are on their way before the answer is
        return all(added)

    @authorized
    @declares(answer=JobsView, query=RetrievablesQuery)
    async def get(self, user: User) -> None:
        """What became of the caller's jobs: how many are in which state, and the ids of those to fetch."""
        query = self.query(RetrievablesQuery)
        retrievables, statistics = await asyncio.gather(
            self.context.store.retrievables(user.id, limit=query.limit, after=query.after),
            self.context.store.user_statistics(user.id),
        )
        self.answer({"retrievables": retrievables, "statistics": statistics.as_dict()})

    @authorized
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

    @authorized
    @declares(answer=CollectedView, body=CollectedIds)
    async def post(self, user: User) -> None:
        """Take ended jobs of the caller's off the retrievables; the answer says how many were on them."""
        ids = self.params(CollectedIds).ids
        self.answer({"jobs": await self.context.store.collect_jobs(user.id, ids)})


class JobHandler(WorkHandler):
    """`/jobs/ID`: one job."""

    @authorized
    @declares(answer=JobView, query=WaitQuery)
    async def get(self, user: User, text: str) -> None:
        """The job; with `?wait=S` not before it has ended or S seconds are over."""
        deadline = time.monotonic() + self.number_argument("wait", 0.0, most=MAX_WAIT)
        run_id = text.partition("-")[0]
        async with self.context.hub.waiter(run_id) as news:
            while True:
                news.clear()
                record, index = await self._find(user, text)
                remaining = deadline - time.monotonic()
                if record.outcome.ended >> index & 1 or remaining <= 0:
                    break
                await wait_for_news(news, remaining)
        self.answer(await self._describe(record, index))

    @authorized
    @declares(answer=JobView, errors=(ErrorCode.JOB_ENDED,))
    async def delete(self, user: User, text: str) -> None:
        """Cancel the job. One that was cancelled before is cancelled still; one that ended otherwise is a conflict."""
        self.answer(await self.cancel(user, text))

    async def cancel(self, user: User, text: str) -> dict[str, object]:
        """Cancel the caller's job of that id; returns it as it is then."""
        record, index = await self._find(user, text)
        told = self.context.hub.progress_of(record.block.id, index) or ProgressReport(0.0, 0.0)
        ended = await cancel_job(
            self.context.store,
            self.context.broker,
            record.outcome,
            index,
            job_id(record.block.run, record.block.first + index),
            partials=bytes(told.partials),
            version=told.version,
        )
        description = await self._describe(*await self._find(user, text))
        if not ended and description["state"] != JobState.CANCELLED.value:
            state = description["state"]
            raise ApiError(ErrorCode.JOB_ENDED, f"job {text} cannot be cancelled: it has {state} already")
        self.context.hub.wake(record.block.run)
        return description

    async def _find(self, user: User, text: str) -> tuple[BlockRecord, int]:
        """The block that the user's job of that id is in, and its index there."""
        store, size = self.context.store, self.context.settings.block_size
        if (parts := split_job_id(text)) is not None:
            run_id, job_number = parts
            # Which block it is depends on the run's block size, nearly always this server's: look there first.
            record = await store.inspect_block(block_id(run_id, job_number // size))
            if not _has_job(record, job_number):
                run = await store.get_run(run_id)
                size = run.block_size if run is not None else size
                record = await store.inspect_block(block_id(run_id, job_number // size))
            if record is not None and _has_job(record, job_number) and self.may_see(user, record.block.user):
                return record, job_number - record.block.first
        raise ApiError(ErrorCode.NOT_FOUND, f"there is no job {text[:80]}")

    async def _result(self, record: BlockRecord, index: int) -> dict[str, object] | None:
        """How the job with that index ended; None if it has not."""
        if not record.outcome.ended >> index & 1:
            return None
        parts = await self.context.store.get_parts(record.block.id) if record.parts is None else record.parts
        for part in parts:
            if part.jobs >> index & 1:
                for batch, result in part_results(part):
                    if result.index == index:
                        return {"state": STATES[result.status]} | result_fields(batch, result)
        return None

    async def _describe(self, record: BlockRecord, index: int) -> dict[str, object]:
        block = record.block
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
        result = await self._result(record, index)
        if result is None:
            result = waiting_fields(self.context.hub, record, index)
            waits = result["state"] in (JobState.ACCEPTED.value, JobState.QUEUED.value)
            route = await self.unserved_route(block.function) if waits else None
            if route is not None:
                result["unserved_route"] = route
            if result["state"] != JobState.RUNNING.value:
                run, due = await self.context.store.get_run(block.run), cast("float", result.get("due", 0.0))
                waiting = WaitingJob(block, index, run, due, gated="waits_for" in result)
                result["waiting"] = await self.context.why_waiting.of_job(waiting, route)
        return description | result


def cancelled_jobs(block: Block, ids: Collection[str]) -> list[Candidate]:
    """What ends those jobs of a new block as cancelled that have these ids: another request has made the same."""
    indices = [number - block.first for run, number in map(_place_of, ids) if run == block.run]
    jobs = bitmap.from_indices(index for index in indices if 0 <= index < block.count)
    return [cancelled_candidate(new_outcome(block), jobs)] if jobs else []


def _place_of(job: str) -> tuple[str, int]:
    run, _, number = job.partition("-")
    return run, int(number)


def _has_job(record: BlockRecord | None, number: int) -> bool:
    """Whether a block has the job of that number in its run."""
    return record is not None and 0 <= number - record.block.first < record.block.count


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
