"""`/admin/runs/` and `/admin/jobs/`: the work of all users, for those who look after it."""

from __future__ import annotations

from typing import Any

from msgspec import UNSET, Struct, UnsetType

from dts.model import Run, User
from dts.server.cancel import cancel_unfinished
from dts.server.consts import ErrorCode
from dts.server.declare import declares
from dts.server.handlers._base import ApiError, DtsHandler, PageQuery, signed
from dts.server.handlers.jobs import CancelledView, JobHandler, JobView
from dts.server.handlers.runs import AnyRunHandler, RunProgress, RunView, run_fields
from dts.server.operations import operation_logger


class RunsQuery(PageQuery, forbid_unknown_fields=True, kw_only=True):
    """Which runs."""

    user: str | UnsetType = UNSET


class Nothing(Struct):
    """A cancellation changes no fields."""


class RunsAdminHandler(DtsHandler):
    """`/admin/runs/`: everybody's runs."""

    @signed
    @declares(answer=list[RunView], query=RunsQuery)
    async def get(self, user: User) -> None:
        """Runs, newest first, of one user or of all."""
        query = self.query(RunsQuery)
        of = None if isinstance(query.user, UnsetType) else query.user
        runs = await self.context.store.list_runs(of, limit=query.limit, after=query.after)
        self.answer([{**run_fields(run), "user": run.user} for run in runs])


class RunAdminHandler(AnyRunHandler):
    """`/admin/runs/ID`: anybody's run."""

    everybodys = True

    @signed
    @declares(answer=RunProgress)
    async def delete(self, user: User, run_id: str) -> None:
        """Cancel the run."""
        await self._answer_with(await self._cancel_on_record(user, run_id, Nothing()))

    @operation_logger("runs.cancel")
    async def _cancel_on_record(self, user: User, run_id: str, ops: Nothing) -> Run:
        return await self.cancel(user, run_id)


class Whose(Struct, forbid_unknown_fields=True):
    """Whose unfinished jobs: a user's, a function's, or a user's of a function."""

    user: str | None = None
    function: str | None = None


class JobsAdminHandler(DtsHandler):
    """`/admin/jobs/`: the jobs of all users."""

    @signed
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

    @signed
    @declares(answer=JobView, errors=(ErrorCode.JOB_ENDED,))
    async def delete(self, user: User, text: str) -> None:
        """Cancel the job."""
        self.answer(await self._cancel_on_record(user, text, Nothing()))

    @operation_logger("jobs.cancel")
    async def _cancel_on_record(self, user: User, text: str, ops: Nothing) -> dict[str, Any]:
        return await self.cancel(user, text)
