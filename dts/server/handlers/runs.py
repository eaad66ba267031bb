"""`/runs/`: whole files, in blocks."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Literal

import msgspec

from dts.model import Part, Run, RunState, User, bitmap, job_id, new_id, parse_function_name
from dts.server.cancel import cancel_jobs_of_run
from dts.server.consts import (
    CONTENT_NDJSON,
    CONTENT_PROTOBUF,
    MAX_PAGE,
    MAX_RESULTS,
    MAX_WAIT,
    ErrorCode,
)
from dts.server.handlers._base import ApiError, DtsHandler, signed
from dts.server.handlers.jobs import wait_for_news
from dts.server.ingest import batch_from_ndjson, batch_from_protobuf, new_block
from dts.server.results import part_results, result_fields
from dts.wire import codec, dts_pb2
from dts.wire.queues import TOPIC_CANCELLED


class RunParams(msgspec.Struct, forbid_unknown_fields=True):
    """A run as it is asked for."""

    function: str


class RunChanges(msgspec.Struct, forbid_unknown_fields=True):
    """A move of a run: `closed`, when all its blocks are sent; `paused`, and `open` to resume."""

    state: Literal["open", "closed", "paused"]


class Receipts(msgspec.Struct, forbid_unknown_fields=True):
    """Receipts that a client hands back."""

    receipts: list[str]


class RunsHandler(DtsHandler):
    """`/runs/`: open a run, list them."""

    @signed
    async def post(self, user: User) -> None:
        """Open a run of one function."""
        name = str(parse_function_name(self.params(RunParams).function))
        if await self.context.catalogue.get(name) is None:
            raise ApiError(ErrorCode.FUNCTION_NOT_FOUND, f"there is no function {name}: it is not registered")
        settings = self.context.settings
        run = Run(new_id(), user.id, name, settings.block_size, created=time.time())
        await self.context.store.add_run(run)
        self.answer({**_run_fields(run), "max_body": settings.max_body}, 201)

    @signed
    async def get(self, user: User) -> None:
        """The caller's runs, newest first."""
        limit = int(self.number_argument("limit", 100, most=MAX_PAGE))
        after = self.get_query_argument("after", None)
        runs = await self.context.store.list_runs(user.id, limit=limit, after=after)
        self.answer([_run_fields(run) for run in runs])


class RunHandler(DtsHandler):
    """`/runs/ID`: one run."""

    @signed
    async def get(self, user: User, run_id: str) -> None:
        """How far the run is."""
        await self._answer_with(await self.own_run(user, run_id))

    @signed
    async def patch(self, user: User, run_id: str) -> None:
        """Close, pause or resume the run."""
        run = await self.own_run(user, run_id)
        asked = self.params(RunChanges).state
        store = self.context.store
        if asked == "closed":
            changed = await store.update_run(run.id, state=RunState.CLOSED)
        elif run.state is RunState.CANCELLED:
            changed = None
        else:
            changed = await store.update_run(run.id, paused=asked == "paused")
        if changed is None or (asked == "closed" and changed.state is not RunState.CLOSED):
            raise ApiError(ErrorCode.RUN_NOT_OPEN, f"run {run.id} is cancelled: it cannot become {asked}")
        await self._answer_with(changed)

    @signed
    async def delete(self, user: User, run_id: str) -> None:
        """Cancel the run: what has not ended is cancelled, what has ended keeps its result."""
        run = await self.own_run(user, run_id)
        changed = await self.context.store.update_run(run.id, state=RunState.CANCELLED)
        await self.context.broker.broadcast(TOPIC_CANCELLED, run.id)
        await cancel_jobs_of_run(self.context.store, run.id)
        self.context.hub.wake(run.id)
        await self._answer_with(changed or replace(run, state=RunState.CANCELLED))

    async def _answer_with(self, run: Run) -> None:
        statistics = await self.context.store.run_statistics(run.id)
        finished = run.state is not RunState.OPEN and statistics.ended == statistics.total
        self.answer({**_run_fields(run), "statistics": statistics.as_dict(), "finished": finished})


class BlockHandler(DtsHandler):
    """`/runs/ID/blocks/K`: a block of a run."""

    @signed
    async def put(self, user: User, run_id: str, number: str) -> None:
        """Store a block: 201; the same block again: 200; another one under its number: 409."""
        run = await self.own_run(user, run_id)
        batch = self._batch(run)
        block = new_block(run, int(number), run.function, batch)
        if run.state is not RunState.OPEN or not run.function:
            repeated = await self.context.store.get_block(block.id)
            if repeated is None or repeated.digest != block.digest:
                raise ApiError(ErrorCode.RUN_NOT_OPEN, f"run {run.id} is {run.state}: it takes no more blocks")
            added = False
        else:
            [added] = await self.context.store.add_blocks([block])
        if added and not run.paused:
            self.context.publisher.submit(block, batch, await self.context.catalogue.get(run.function))
        self.answer({"block": int(number), "jobs": block.count}, 201 if added else 200)

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


class ResultsHandler(DtsHandler):
    """`/runs/ID/results`: what has finished and is not collected."""

    @signed
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
            self.finish(_page(parts, run))
        else:
            self.set_header("Content-Type", CONTENT_NDJSON)
            self.finish(_rows(parts, run))

    _gone = False

    def on_connection_close(self) -> None:
        """The client has left: stop waiting on its behalf."""
        super().on_connection_close()
        self._gone = True
        if (news := getattr(self, "_news", None)) is not None:
            news.set()


class CollectedHandler(DtsHandler):
    """`/runs/ID/collected`: receipts handed back."""

    @signed
    async def post(self, user: User, run_id: str) -> None:
        """Mark parts as collected; the answer says how many jobs are in those that were not before."""
        run = await self.own_run(user, run_id)
        receipts = self.params(Receipts).receipts
        self.answer({"jobs": await self.context.store.collect(run.id, receipts)})


def _run_fields(run: Run) -> dict[str, object]:
    return {
        "id": run.id,
        "function": run.function,
        "block_size": run.block_size,
        "state": run.state.value,
        "paused": run.paused,
        "created": round(run.created, 6),
    }


def _page(parts: list[Part], run: Run) -> bytes:
    """Parts as they are stored, for a client that reads protobuf."""
    page = dts_pb2.ResultPage()
    for part in parts:
        number, _, _ = part.receipt.partition(".")
        page.parts.add(
            receipt=part.receipt,
            block=int(number),
            jobs=bitmap.to_bytes(part.jobs, run.block_size).rstrip(b"\0"),
            body=part.body,
            content_encoding=part.content_encoding,
        )
    return page.SerializeToString()


def _rows(parts: list[Part], run: Run) -> bytes:
    """One line of JSON a result, for a client that reads NDJSON."""
    encode = msgspec.json.Encoder().encode_lines
    rows = []
    for part in parts:
        first = int(part.receipt.partition(".")[0]) * run.block_size
        for batch, result in part_results(part):
            number = first + result.index
            rows.append(
                {
                    "id": job_id(run.id, number),
                    "job": number,
                    "receipt": part.receipt,
                    **result_fields(batch, result),
                }
            )
    return encode(rows)
