"""`/admin/runs/` and `/admin/jobs/`: the work of all users, for those who look after it."""

from __future__ import annotations

from typing import Any

from msgspec import UNSET, Struct, UnsetType

from dts.model import Run, RunState, User
from dts.server.consts import ErrorCode
from dts.server.dead.rerun import Rerun
from dts.server.ending.cancel import cancel_unfinished
from dts.server.handlers._base import DtsHandler, authorized
from dts.server.handlers.declare import declares
from dts.server.handlers.errors import ApiError
from dts.server.handlers.jobs import CancelledView, JobHandler, JobView
from dts.server.handlers.recorded import operation_logger
from dts.server.handlers.runs import AnyRunHandler, RunProgress, RunsQuery, RunView, run_rows
from dts.server.handlers.visibility import WorkHandler
from dts.server.publish.repair import Again, Requeued
from dts.server.versions import library


class AnyonesRunsQuery(RunsQuery, forbid_unknown_fields=True, kw_only=True):
    """Whose runs."""

    user: str | UnsetType = UNSET


class Nothing(Struct):
    """What is told to do something, such as to cancel, changes no fields."""


class RunsAdminHandler(DtsHandler):
    """`/admin/runs/`: everybody's runs."""

    @authorized
    @declares(answer=list[RunView], query=AnyonesRunsQuery)
    async def get(self, user: User) -> None:
        """Runs, newest first, of one user or of everybody; with `all` also those that `POST /jobs/` made."""
        query = self.query(AnyonesRunsQuery)
        of = None if isinstance(query.user, UnsetType) else query.user
        runs = await self.context.store.list_runs(of, limit=query.limit, after=query.after, single=query.all)
        rows = await run_rows(self.context.store, runs, counts=query.counts)
        self.answer([{**row, "user": run.user} for row, run in zip(rows, runs, strict=True)])


class RunAdminHandler(AnyRunHandler):
    """`/admin/runs/ID`: anybody's run."""

    everybodys = True

    @authorized
    @declares(answer=RunProgress, errors=(ErrorCode.RUN_ENDED,))
    async def delete(self, user: User, run_id: str) -> None:
        """Cancel the run."""
        await self._answer_with(await self._cancel_on_record(user, run_id, Nothing()))

    @operation_logger("runs.cancel")
    async def _cancel_on_record(self, user: User, run_id: str, ops: Nothing) -> Run:
        return await self.cancel(user, run_id)


class RequeuedView(Struct):
    """How many jobs were published again, of how many blocks."""

    jobs: int
    blocks: int


class RequeueAdminHandler(WorkHandler):
    """`/admin/runs/ID/requeue`: anybody's run whose messages may be lost."""

    everybodys = True

    @authorized
    @declares(answer=RequeuedView, errors=(ErrorCode.RUN_NOT_OPEN,))
    async def post(self, user: User, run_id: str) -> None:
        """Publish again what has not ended of the run, waits for nothing, and is not at work."""
        run = await self.own_run(user, run_id)
        if run.paused or run.state is RunState.CANCELLED:
            how = "cancelled" if run.state is RunState.CANCELLED else "paused: resume it first"
            raise ApiError(ErrorCode.RUN_NOT_OPEN, f"run {run.id} is {how}")
        done = await self._requeue_on_record(user, run.id, Nothing())
        self.answer(RequeuedView(done.jobs, done.blocks))

    @operation_logger("runs.requeue")
    async def _requeue_on_record(self, user: User, run_id: str, ops: Nothing) -> Requeued:
        context = self.context
        again = Again(context.store, context.broker, context.catalogue, context.settings)
        return await again.requeue_run(run_id)


class RetryParams(Struct, forbid_unknown_fields=True):
    """Which version of the function shall run: the first digits of its hash, or empty for the one that is active."""

    version: str = ""


class RetriedView(Struct):
    """The new run that the failed jobs are in, and how many they are."""

    run: str
    jobs: int


class RetryAdminHandler(WorkHandler):
    """`/admin/runs/ID/retry`: the failed jobs of anybody's run, once more."""

    everybodys = True

    @authorized
    @declares(answer=RetriedView, body=RetryParams, statuses=(201,), errors=(ErrorCode.RUN_ENDED,))
    async def post(self, user: User, run_id: str) -> None:
        """Run what failed again, in a new run of the same user; the run keeps what it has."""
        run, params = await self.own_run(user, run_id), self.params(RetryParams)
        version = params.version and (await library.resolve(self.context.store, run.function, params.version)).hash
        new, jobs = await self._retry_on_record(user, run.id, RetryParams(version))
        self.answer(RetriedView(new, jobs), 201)

    @operation_logger("runs.retry")
    async def _retry_on_record(self, user: User, run_id: str, ops: RetryParams) -> tuple[str, int]:
        context = self.context
        rerun = Rerun(context.store, context.catalogue, context.publisher)
        done = await rerun.rerun(await self.own_run(user, run_id), version=ops.version)
        if done is None:
            raise ApiError(ErrorCode.RUN_ENDED, f"no job of run {run_id} has failed: there is nothing to run again")
        return done[0].id, done[1]


class Whose(Struct, forbid_unknown_fields=True):
    """Whose unfinished jobs: a user's, a function's, or a user's of a function."""

    user: str | None = None
    function: str | None = None


class JobsAdminHandler(DtsHandler):
    """`/admin/jobs/`: the jobs of all users."""

    @authorized
    @declares(answer=CancelledView, query=Whose)
    async def delete(self, user: User) -> None:
        """Cancel the unfinished jobs of a user, or of a function, with the runs that they are of."""
        whose = self.query(Whose)
        if whose.user is None and whose.function is None:
            raise ApiError(ErrorCode.ARGUMENT_MISSING, "say whose jobs to cancel: ?user=, ?function=, or both")
        self.answer(await self._cancel_on_record(user, whose.function or whose.user or "", whose))

    @operation_logger("jobs.cancel")
    async def _cancel_on_record(self, user: User, doc_id: str, whose: Whose) -> dict[str, int]:
        context = self.context
        cancelled, runs = await cancel_unfinished(
            context.store, context.broker, user=whose.user, function=whose.function
        )
        for run_id in runs:
            context.hub.wake(run_id)
        return {"cancelled": cancelled, "runs": len(runs)}


class JobAdminHandler(JobHandler):
    """`/admin/jobs/ID`: anybody's job."""

    everybodys = True

    @authorized
    @declares(answer=JobView, errors=(ErrorCode.JOB_ENDED,))
    async def delete(self, user: User, text: str) -> None:
        """Cancel the job."""
        self.answer(await self._cancel_on_record(user, text, Nothing()))

    @operation_logger("jobs.cancel")
    async def _cancel_on_record(self, user: User, text: str, ops: Nothing) -> dict[str, Any]:
        return await self.cancel(user, text)
