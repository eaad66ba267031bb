"""`/runs/`: whole files, in blocks."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated

import msgspec
from tornado.iostream import StreamClosedError

from dts.errors import BlockTooLate
from dts.model import Block, Finished, Function, Part, Run, RunState, User, new_id
from dts.server.access.limits import OverLimit
from dts.server.consts import (
    CONTENT_NDJSON,
    CONTENT_PROTOBUF,
    MAX_RESULTS,
    MAX_WAIT,
    ErrorCode,
)
from dts.server.ending.cancel import cancel_run
from dts.server.ending.late_blocks import add_blocks
from dts.server.handlers._base import PageQuery, authorized
from dts.server.handlers.declare import declares
from dts.server.handlers.errors import ApiError
from dts.server.handlers.jobs import StatisticsView, wait_for_news
from dts.server.handlers.run_changes import RunChanges, turns_of
from dts.server.handlers.visibility import WorkHandler
from dts.server.intake.following import FollowParams, follow, following_of, run_ids, what_follows
from dts.server.intake.ingest import JobLine, batch_from_ndjson, batch_from_protobuf, new_block
from dts.server.intake.memo import answer_from_memo
from dts.server.intake.options import own_options
from dts.server.notify.runs import notify_at_end, own_recipients
from dts.server.publish.gate import place_at_gate
from dts.server.publish.waiting import Waiting
from dts.server.record.lines import MAX_LINE, lines_of_parts
from dts.server.record.pages import result_page, result_rows
from dts.server.versions import library
from dts.store import Store
from dts.wire import codec, dts_pb2
from dts.wire.numbers import Weight
from dts.wire.queues import TOPIC_RESULTS

_MAX_PAGE_BYTES = 32 * 1024 * 1024
"""Bytes of NDJSON after which a page of results ends, with the part that it is at."""

_MAX_RECEIPTS = 20_000


VersionText = Annotated[str, msgspec.Meta(max_length=64)]


class RunParams(FollowParams, forbid_unknown_fields=True, kw_only=True):
    """A run as it is asked for, with what holds for each of its jobs.

    All its jobs run `version` of the function, by the first digits of its hash; or, where that is not given, the one
    that is active when the run is opened. Those in `notify` get a notice when it has finished: `me`, the caller's own
    mail address, or URLs of webhooks.
    """

    function: str
    version: VersionText = ""
    weight: Weight = 1.0
    notify: Annotated[tuple[str, ...], msgspec.Meta(max_length=10)] = ()


class Receipts(msgspec.Struct, forbid_unknown_fields=True):
    """Receipts that a client hands back, at most 20,000 at once."""

    receipts: Annotated[list[str], msgspec.Meta(max_length=_MAX_RECEIPTS)]


class RunView(msgspec.Struct, kw_only=True):
    """A run as answered. `single` is true if `POST /jobs/` made it; `version` is the hash of a deployed version.
    `priority` and `weight` are there if the run has its own.

    Once it has finished, `finished_at` is when, in seconds since the epoch, and `counts` is how many of its jobs
    `succeeded`, `failed` and were `cancelled`, and their `total`; neither changes any more.

    `then_run` and `reduce_run` are the runs that its results go into, if it was opened with such.

    When it is opened it tells `max_body` (bytes), and `block_jobs`: how many jobs a block may have by the limits now.
    """

    id: str
    user: str | msgspec.UnsetType = msgspec.UNSET
    function: str
    block_size: int
    state: RunState
    paused: bool
    created: float
    finished_at: float | msgspec.UnsetType = msgspec.UNSET
    counts: dict[str, int] | msgspec.UnsetType = msgspec.UNSET
    not_before: float | msgspec.UnsetType = msgspec.UNSET
    deadline: float | msgspec.UnsetType = msgspec.UNSET
    max_body: int | msgspec.UnsetType = msgspec.UNSET
    block_jobs: int | msgspec.UnsetType = msgspec.UNSET
    single: bool | msgspec.UnsetType = msgspec.UNSET
    version: str | msgspec.UnsetType = msgspec.UNSET
    priority: int | msgspec.UnsetType = msgspec.UNSET
    weight: float | msgspec.UnsetType = msgspec.UNSET
    then_run: str | msgspec.UnsetType = msgspec.UNSET
    reduce_run: str | msgspec.UnsetType = msgspec.UNSET


class RunsQuery(PageQuery, forbid_unknown_fields=True, kw_only=True):
    """Which runs: those that were opened as such, or `all`, with those of `POST /jobs/`.

    With `counts` those that have not finished say how many of their jobs are in which state, too.
    """

    all: bool = False
    counts: bool = False


class RunProgress(RunView, kw_only=True):
    """A run with how far it is.

    `on_success_run`, `on_failure_run` and `on_end_run` are those of functions that were called at its end;
    `follow_problem` is why something that was to follow it did not come about. `unserved_route` is told when its jobs
    wait for a route that no live worker serves. `waiting` says what its next job waits for, when any does.
    """

    statistics: StatisticsView
    finished: bool
    unserved_route: str | msgspec.UnsetType = msgspec.UNSET
    on_success_run: str | msgspec.UnsetType = msgspec.UNSET
    on_failure_run: str | msgspec.UnsetType = msgspec.UNSET
    on_end_run: str | msgspec.UnsetType = msgspec.UNSET
    follow_problem: str | msgspec.UnsetType = msgspec.UNSET
    waiting: Waiting | msgspec.UnsetType = msgspec.UNSET


class BlockView(msgspec.Struct):
    """A block that is stored: its number, and how many jobs it has; and how many the next may have by the limits."""

    block: int
    jobs: int
    block_jobs: int | msgspec.UnsetType = msgspec.UNSET


class Collected(msgspec.Struct):
    """How many jobs were collected and had not been before."""

    jobs: int


class BlockQuery(msgspec.Struct, forbid_unknown_fields=True):
    """Which line of the input the first job of a block in NDJSON is for, from 1; the others are for the next ones."""

    first_line: Annotated[int, msgspec.Meta(ge=0, le=MAX_LINE)] = 0


class ResultsQuery(msgspec.Struct, forbid_unknown_fields=True):
    """How many results to give, about, and how long to wait for the first, in seconds; at most 30."""

    max: Annotated[float, msgspec.Meta(ge=0)] = 10_000
    wait: Annotated[float, msgspec.Meta(ge=0)] = 0.0


class RunsHandler(WorkHandler):
    """`/runs/`: open a run, list them."""

    @authorized
    @declares(
        answer=RunView,
        body=RunParams,
        statuses=(201,),
        errors=(ErrorCode.FUNCTION_NOT_FOUND, ErrorCode.FUNCTION_DISABLED),
    )
    async def post(self, user: User) -> None:
        """Open a run of one function."""
        params, now = self.params(RunParams), time.time()
        function = await self.usable_function(user, params.function)
        recipients = own_recipients(user, params.notify)
        following = following_of(params)
        for name in following.functions:
            await self.usable_function(user, name)
        options = own_options(params, now=now) or dts_pb2.Options()
        if version := await self._version(function, params.version):
            options.version = version
        settings = self.context.settings
        size = await self.context.limiter.block_size(user, function, settings.block_size)
        most = await self.context.limiter.block_jobs(user, function, size)
        not_before = params.not_before if params.not_before and params.not_before > now else 0.0
        run = Run(
            new_id(),
            user.id,
            function.name,
            size,
            created=now,
            not_before=not_before,
            options=options.SerializeToString(),
            priority=params.priority,
            weight=params.weight,
            follow_up=bool(following.functions or recipients),
        )
        if recipients:
            await notify_at_end(self.context.store, run, recipients)
        await follow(self.context.store, run.id, following)
        await self.context.store.add_run(run)
        self.answer(
            {**run_fields(run), **run_ids(run.id, following), "max_body": settings.max_body, "block_jobs": most}, 201
        )

    async def _version(self, function: Function, asked: str) -> str:
        """The hash of the version that a new run of a function has; empty for what workers have in their folders."""
        if not asked:
            return function.active_version
        return (await library.resolve(self.context.store, function.name, asked)).hash

    @authorized
    @declares(answer=list[RunView], query=RunsQuery)
    async def get(self, user: User) -> None:
        """The caller's runs, newest first; with `all` also those that `POST /jobs/` made."""
        query = self.query(RunsQuery)
        runs = await self.context.store.list_runs(user.id, limit=query.limit, after=query.after, single=query.all)
        self.answer(await run_rows(self.context.store, runs, counts=query.counts))


_BLOCKS_AT_ONCE = 1000


class AnyRunHandler(WorkHandler):
    """What can be done with a run of one's own, and with one of somebody else's by whom that is allowed."""

    @authorized
    @declares(answer=RunProgress)
    async def get(self, user: User, run_id: str) -> None:
        """How far the run is."""
        await self._answer_with(await self.own_run(user, run_id))

    async def cancel(self, user: User, run_id: str) -> Run:
        """Cancel the caller's run of that id; returns it as it is then.

        One that was cancelled before is cancelled still, and one that is open takes no more blocks from then on.

        Raises:
            ApiError: it is closed and all its jobs have ended, so that there is nothing to cancel.
        """
        context, run = self.context, await self.own_run(user, run_id)
        cancelled = await cancel_run(context.store, context.broker, run.id)
        if cancelled is not None and cancelled.state is not RunState.CANCELLED:
            raise ApiError(ErrorCode.RUN_ENDED, f"run {run.id} cannot be cancelled: it has finished already")
        context.hub.wake(run.id)
        return cancelled or replace(run, state=RunState.CANCELLED)

    async def _answer_with(self, run: Run) -> None:
        store = self.context.store
        statistics, follows = await asyncio.gather(store.run_statistics(run.id), what_follows(store, run.id))
        # On MongoDB a run is noted as finished a moment after its last job has ended.
        finished = run.state is not RunState.OPEN and statistics.ended == statistics.total
        about: dict[str, str] = {"user": run.user} if self.everybodys else {}
        about |= follows
        waits = statistics.queued or statistics.accepted
        if waits and (route := await self.unserved_route(run.function)):
            about["unserved_route"] = route
        progress = {**run_fields(run), **about, "statistics": statistics.as_dict(), "finished": finished}
        if run.state is not RunState.CANCELLED:
            waiting = await self.context.why_waiting.of_run(run, statistics, about.get("unserved_route"))
            progress |= {"waiting": waiting} if waiting is not None else {}
        self.answer(progress)


class RunHandler(AnyRunHandler):
    """`/runs/ID`: one run."""

    @authorized
    @declares(answer=RunProgress, body=RunChanges, errors=(ErrorCode.RUN_NOT_OPEN,))
    async def patch(self, user: User, run_id: str) -> None:
        """Close, pause or resume the run, or change its priority or weight."""
        run = await self.own_run(user, run_id)
        params = self.params(RunChanges)
        if (turns := turns_of(run, params)) is not None:
            run = await self.context.store.update_run(run.id, turns=turns) or run
            if params.priority is not msgspec.UNSET:
                await self._reorder(run)
            self.context.publisher.leave()
        await self._answer_with(run if params.state is msgspec.UNSET else await self._move(run, params.state))

    async def _reorder(self, run: Run) -> None:
        """Have what waits of a run at the gate stand where its priority says, as far as each function may have it."""
        store, after = self.context.store, -1
        functions = {run.function} if run.function else set[str]()
        while not run.function and (blocks := await store.list_blocks(run.id, limit=_BLOCKS_AT_ONCE, after=after)):
            functions |= {block.function for block in blocks}
            after = int(blocks[-1].block.rpartition("-")[2])
        for function in sorted(functions):
            parties = await self.context.publisher.parties_of(run.user, function)
            await store.reorder_gated(run.id, function, due=place_at_gate(parties.priority(run.priority)))

    async def _move(self, run: Run, asked: str) -> Run:
        store = self.context.store
        if asked == "closed":
            changed = await store.update_run(run.id, state=RunState.CLOSED)
            await self.context.broker.broadcast(TOPIC_RESULTS, run.id)  # it may have finished by this
        elif run.state is RunState.CANCELLED:
            changed = None
        else:
            changed = await store.update_run(run.id, paused=asked == "paused")
            self.context.publisher.leave()
        if changed is None or (asked == "closed" and changed.state is not RunState.CLOSED):
            raise ApiError(ErrorCode.RUN_NOT_OPEN, f"run {run.id} is cancelled: it cannot become {asked}")
        return changed

    @authorized
    @declares(answer=RunProgress, errors=(ErrorCode.RUN_ENDED,))
    async def delete(self, user: User, run_id: str) -> None:
        """Cancel the run: what has not ended is cancelled, what has ended keeps its result."""
        await self._answer_with(await self.cancel(user, run_id))


class BlockHandler(WorkHandler):
    """`/runs/ID/blocks/K`: a block of a run."""

    @authorized
    @declares(
        answer=BlockView,
        body=JobLine,
        query=BlockQuery,
        statuses=(201, 200),
        accepts=(CONTENT_NDJSON, CONTENT_PROTOBUF),
        errors=(
            ErrorCode.BLOCK_CONFLICT,
            ErrorCode.RUN_NOT_OPEN,
            ErrorCode.FUNCTION_DISABLED,
            ErrorCode.UNSUPPORTED_MEDIA_TYPE,
        ),
    )
    async def put(self, user: User, run_id: str, number: str) -> None:
        """Store a block: 201; the same block again: 200; another one under its number: 409."""
        run = await self.own_run(user, run_id)
        batch = self._batch(run)
        if first_line := self.query(BlockQuery).first_line:
            batch.first_line = first_line
        if run.options:
            batch.options.MergeFromString(run.options)
        block = new_block(run, int(number), run.function, batch)
        block = replace(block, not_before=run.not_before, deadline=batch.options.deadline)
        added = await self._accept(user, run, block, batch)
        answer = {"block": int(number), "jobs": block.count}
        if (function := await self.context.catalogue.get(run.function)) is not None:
            answer["block_jobs"] = await self.context.limiter.block_jobs(user, function, run.block_size)
        self.answer(answer, 201 if added else 200)

    async def _accept(self, user: User, run: Run, block: Block, batch: dts_pb2.JobBatch) -> bool:
        """Store a block and have it published; False if it is a repeat, which is welcome at any time."""
        try:
            if run.state is not RunState.OPEN or not run.function:
                raise ApiError(ErrorCode.RUN_NOT_OPEN, f"run {run.id} is {run.state}: it takes no more blocks")
            function = await self.usable_function(user, run.function)
            answer = await answer_from_memo(self.context.store, function, block, batch)
            async with self.context.limiter.jobs(user, [(function, block.count)], divisible=False):
                claim = None if run.paused else await self.context.publisher.claim([(block, function)])
                [added] = await add_blocks(self.context.store, [block], claim=claim)
        except BlockTooLate as error:
            self.context.hub.wake(run.id)
            raise ApiError(ErrorCode.RUN_NOT_OPEN, error.message) from error
        except (ApiError, OverLimit):
            repeated = await self.context.store.get_block(block.id)
            if repeated is None or repeated.digest != block.digest:
                raise
            return False
        if added and (answer is not None or not run.paused):
            await self.publish((block, batch), function, claim, [answer] if answer else [])
        return added

    def _batch(self, run: Run) -> dts_pb2.JobBatch:
        body = self.body()
        content_type = self.request.headers.get("Content-Type", CONTENT_NDJSON).partition(";")[0].strip().lower()
        encoding = self.request.headers.get("Content-Encoding", codec.IDENTITY).strip().lower()
        encoding = codec.IDENTITY if encoding == "identity" else encoding
        if encoding not in (codec.IDENTITY, codec.DEFLATE):
            raise ApiError(ErrorCode.UNSUPPORTED_MEDIA_TYPE, "Content-Encoding must be deflate or identity")
        data = codec.decompress(body, encoding, max_size=self.context.settings.max_body)
        if content_type == CONTENT_PROTOBUF:
            return batch_from_protobuf(data, max_jobs=run.block_size)
        if content_type in (
            CONTENT_NDJSON,
            "application/json",
            "application/ndjson",
            "application/jsonl",
            "text/plain",
        ):
            return batch_from_ndjson(data, max_jobs=run.block_size)
        message = f"Content-Type must be {CONTENT_NDJSON} or {CONTENT_PROTOBUF}"
        raise ApiError(ErrorCode.UNSUPPORTED_MEDIA_TYPE, message)


class ResultsHandler(WorkHandler):
    """`/runs/ID/results`: what has finished and is not collected."""

    @authorized
    @declares(query=ResultsQuery, gives=(CONTENT_NDJSON, CONTENT_PROTOBUF))
    async def get(self, user: User, run_id: str) -> None:
        """Parts of about `max` results, waiting up to `wait` seconds for the first."""
        run = await self.own_run(user, run_id)
        most = max(1, int(self.number_argument("max", 10_000, most=MAX_RESULTS)))
        deadline = time.monotonic() + self.number_argument("wait", 0.0, most=MAX_WAIT)
        async with self.context.hub.waiter(run.id) as news:
            self._news = news
            while True:
                news.clear()
                parts = await self.context.store.uncollected_parts(run.id, max_jobs=most)
                remaining = deadline - time.monotonic()
                if parts or remaining <= 0 or self._gone:
                    break
                await wait_for_news(news, remaining)
        if CONTENT_PROTOBUF in self.request.headers.get("Accept", ""):
            self.set_header("Content-Type", CONTENT_PROTOBUF)
            self.finish(result_page(parts, run))
        else:
            self.set_header("Content-Type", CONTENT_NDJSON)
            await self._write_rows(parts, run)

    async def _write_rows(self, parts: list[Part], run: Run) -> None:
        """Send parts one by one, since what is stored may be many times larger as text, and no more than a page."""
        lines = await lines_of_parts(self.context.store, parts)
        parts.reverse()
        sent = 0
        try:
            while parts and sent < _MAX_PAGE_BYTES:
                part = parts.pop()
                rows = result_rows(part, run, lines.get(part.block))
                sent += len(rows)
                self.write(rows)
                del rows
                await self.flush()
            await self.finish()
        except StreamClosedError:
            return  # the client has left; its parts are not collected

    _gone = False

    def on_connection_close(self) -> None:
        """The client has left: stop waiting on its behalf."""
        super().on_connection_close()
        self._gone = True
        if (news := getattr(self, "_news", None)) is not None:
            news.set()


class CollectedHandler(WorkHandler):
    """`/runs/ID/collected`: receipts handed back."""

    @authorized
    @declares(answer=Collected, body=Receipts)
    async def post(self, user: User, run_id: str) -> None:
        """Mark parts as collected; the answer says how many jobs are in those that were not before."""
        run = await self.own_run(user, run_id)
        receipts = self.params(Receipts).receipts
        self.answer({"jobs": await self.context.store.collect(run.id, receipts)})


def run_fields(run: Run) -> dict[str, object]:
    """A run as RunView says."""
    options = dts_pb2.Options.FromString(run.options)
    return {
        "id": run.id,
        "function": run.function,
        "block_size": run.block_size,
        "state": run.state.value,
        "paused": run.paused,
        "created": round(run.created, 6),
        **_end_fields(run.finished),
        **({"not_before": round(run.not_before, 6)} if run.not_before else {}),
        **({"deadline": round(options.deadline, 6)} if options.deadline else {}),
        **({"version": options.version} if options.version else {}),
        **({"single": True} if run.single else {}),
        **({"priority": run.priority} if run.priority is not None else {}),
        **({"weight": run.weight} if run.weight != 1.0 else {}),
    }


async def run_rows(store: Store, runs: Sequence[Run], *, counts: bool) -> list[dict[str, object]]:
    """Runs as a list shows them; with `counts` of all of them, also of those that have not finished."""
    rows = [run_fields(run) for run in runs]
    left = [row for row, run in zip(rows, runs, strict=True) if counts and run.finished is None]
    for row, statistics in zip(
        left, await asyncio.gather(*(store.run_statistics(str(row["id"])) for row in left)), strict=True
    ):
        row["counts"] = statistics.as_dict()
    return rows


def _end_fields(end: Finished | None) -> dict[str, object]:
    if end is None:
        return {}
    counts = {"total": end.total, "succeeded": end.succeeded, "failed": end.failed, "cancelled": end.cancelled}
    return {"finished_at": round(end.time, 6), "counts": counts}
