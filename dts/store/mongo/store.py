"""The store for a fleet: MongoDB, a single server or a replica set; no transactions needed."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime

from pymongo import ASCENDING, DESCENDING, IndexModel, ReturnDocument
from pymongo.errors import DuplicateKeyError

from dts.errors import DuplicateKey
from dts.model import (
    Backlog,
    Block,
    Candidate,
    Claim,
    DeadLetter,
    KeyedRequest,
    Outcome,
    Part,
    Run,
    RunState,
    Statistics,
    Turns,
    Unsent,
)
from dts.store.abc import KEYS_KEPT
from dts.store.contract.results import BlockRecord
from dts.store.contract.shared import parse_job_ids, parse_receipts, storable
from dts.store.mongo.admin import ADMIN_INDEXES, MongoAdminStore
from dts.store.mongo.blocks import Blocks
from dts.store.mongo.bodies import Bodies
from dts.store.mongo.connection import MongoConnection, insert_new, translating
from dts.store.mongo.documents import LOOSE, Document, dead_letter_document, dead_letter_from, run_document, run_from
from dts.store.mongo.finishing import FINISHING_INDEXES, runs_of
from dts.store.mongo.fleet import FLEET_INDEXES, MongoFleetStore
from dts.store.mongo.gate import GATE_INDEXES, MongoGateStore
from dts.store.mongo.holds import Holds
from dts.store.mongo.outcomes import Recorder
from dts.store.mongo.plain import DOCUMENT_INDEXES, MongoDocumentStore
from dts.store.mongo.repair import PUBLISHED, MongoRepairStore
from dts.store.mongo.results import Results
from dts.store.mongo.retention import RETENTION_INDEXES, MongoRetentionStore
from dts.store.mongo.tallies import RUN, TALLY_INDEXES, USER, Tallies
from dts.store.mongo.waiting import WAITING_INDEXES, MongoWaitingStore

_OPEN = {"open": True}
_OF_FILES = "of_files"
_UNCOLLECTED = {"uncollected": {"$gt": 0}}
_UNPUBLISHED = {"due": {"$exists": True}}
_CANCELLED = {"state": RunState.CANCELLED.value}
_RUNS_AT_ONCE = 1000


def _index(*fields: str, **options: object) -> IndexModel:
    return IndexModel([(field, ASCENDING) for field in fields], **options)


INDEXES: dict[str, list[IndexModel]] = {
    "runs": [
        _index("user", "_id"),
        *FINISHING_INDEXES,
        _index("_id", "single", name=_OF_FILES, partialFilterExpression={"single": False}),
        _index("user", "_id", "single", name="of_files_by_user", partialFilterExpression={"single": False}),
        _index("cancel_time", "created", name="by_cancelling", partialFilterExpression=_CANCELLED),
        _index("swept", name="unswept", partialFilterExpression=_CANCELLED),
    ],
    "outcomes": [
        _index("run", "number", name="of_run"),
        _index("run", "_id", name="open_of_run", partialFilterExpression=_OPEN),
        # Which blocks have results to give is answered from these alone, not from the documents.
        _index("run", "number", "uncollected", "_id", name="uncollected_by_run", partialFilterExpression=_UNCOLLECTED),
        _index(
            "user",
            "run",
            "number",
            "uncollected",
            "_id",
            name="uncollected_by_user",
            partialFilterExpression=_UNCOLLECTED,
        ),
        _index("function", "user", name="unfinished", partialFilterExpression=_OPEN),
        _index("user", "_id", name="open_by_user", partialFilterExpression=_OPEN),
        _index("function", "_id", name="open_by_function", partialFilterExpression=_OPEN),
        *TALLY_INDEXES,
        PUBLISHED,
        _index("deadline", name="deadline", partialFilterExpression={"deadline": {"$gt": 0}}),
        _index(
            "held",
            "due",
            *("lease", "run", "user", "function", "count", "sent", "single", "priority", "weight"),
            name="backlog_rows",
            partialFilterExpression=_UNPUBLISHED,
        ),
        _index("run", "number", name="backlog_of_run", partialFilterExpression=_UNPUBLISHED),
        _index(
            *("user", "function", "priority", "due"),
            name="backlog_single",
            partialFilterExpression={**_UNPUBLISHED, "single": True},
        ),
    ],
    "requests": [_index("expires", expireAfterSeconds=0)],
    "nonces": [_index("expires", expireAfterSeconds=0)],
    **ADMIN_INDEXES,
    **WAITING_INDEXES,
    **GATE_INDEXES,
    **RETENTION_INDEXES,
    **FLEET_INDEXES,
    **DOCUMENT_INDEXES,
}


_OUTDATED = {
    "outcomes": ("due", "published", "by_run", "by_user", "free", "backlog"),
    "delayed": ("due", "gated"),
    "runs": ("by_function",),
}
"""Indexes of earlier versions that others have taken the place of."""


class MongoStore(
    MongoAdminStore,
    MongoWaitingStore,
    MongoFleetStore,
    MongoRepairStore,
    MongoGateStore,
    MongoRetentionStore,
    MongoDocumentStore,
):
    """A store in MongoDB: `mongodb://host:27017/database`, where the database is `dts` if the URL names none."""

    def __init__(self, url: str) -> None:
        self._connection = MongoConnection(url)
        self._bodies = Bodies(self._connection)
        self._holds = Holds(self._connection)
        self._blocks = Blocks(self._connection, self._bodies, self._holds)
        self._tallies = Tallies(self._connection)
        self._recorder = Recorder(self._connection, self._bodies)
        self._results = Results(self._connection, self._bodies)

    # life

    async def start(self) -> None:
        self._connection.open()
        try:
            await self._connection.ping()
            self._connection.follow_clock()
            await self._create_indexes()
        except BaseException:
            self._connection.close()
            raise

    @translating
    async def _create_indexes(self) -> None:
        await self._mark_runs()
        await self._mark_outcomes()
        for name, indexes in INDEXES.items():
            await self._connection.collection(name).create_indexes(indexes)
        for name, outdated in _OUTDATED.items():
            for index in (await self._connection.collection(name).index_information()).keys() & set(outdated):
                await self._connection.collection(name).drop_index(index)
        await self._mark_operations()

    async def _mark_runs(self) -> None:
        """Have runs of an earlier version, which knew of no single and of no finished ones, found as such: once."""
        runs = self._connection.collection("runs")
        if "unfinished" not in await runs.index_information():
            await runs.update_many({"finished": None}, {"$set": {"unfinished": True}})
        if _OF_FILES not in await runs.index_information():
            await runs.update_many({"single": {"$exists": False}}, {"$set": {"single": False}})

    async def _mark_outcomes(self) -> None:
        """Have outcomes of an earlier version, which knew of no tallies, added up: once."""
        outcomes = self._connection.collection("outcomes")
        if "loose_user" not in await outcomes.index_information():
            await outcomes.update_many({"loose": {"$exists": False}}, {"$set": LOOSE})

    async def close(self) -> None:
        self._connection.close()

    async def ping(self) -> None:
        await self._connection.ping()

    def now(self) -> float:
        return self._connection.now()

    # nonces

    @translating
    async def use_nonce(self, user_id: str, nonce: str, expires: float) -> bool:
        key = {"user": storable(user_id), "nonce": storable(nonce)}
        document = {"_id": key, "expires": datetime.fromtimestamp(expires, UTC)}
        try:
            # A fail-over must not take it back, or the request could be repeated. Once anything durable was done for
            # the request, the nonce is durable, too, since it was written before.
            await self._connection.replicated("nonces").insert_one(document)
        except DuplicateKeyError:
            return False
        return True

    # runs

    async def add_run(self, run: Run) -> None:
        await self._insert("runs", run_document(run), f"there is a run {run.id} already")

    async def get_run(self, run_id: str) -> Run | None:
        document = await self._get("runs", run_id)
        return run_from(document) if document else None

    async def list_runs(
        self, user: str | None = None, *, limit: int = 100, after: str | None = None, single: bool = True
    ) -> list[Run]:
        if limit < 1:
            return []  # MongoDB takes 0 for no limit
        query: Document = {} if single else {"single": False}
        if user is not None:
            query["user"] = storable(user)
        if after is not None:
            query["_id"] = {"$lt": storable(after)}
        found = await self._list("runs", query, limit=limit, order=DESCENDING)
        return [run_from(document) for document in found]

    @translating
    async def update_run(
        self,
        run_id: str,
        *,
        state: RunState | None = None,
        paused: bool | None = None,
        turns: Turns | None = None,
        now: float | None = None,
    ) -> Run | None:
        changes: Document = {}
        if paused is not None:
            changes["paused"] = paused
        if state is not None:
            from_here = [origin.value for origin in RunState if origin.may_become(state) and origin is not state]
            moves = {"$and": [{"$in": ["$state", from_here]}, {"$not": ["$finished"]}]}
            changes["state"] = {"$cond": [moves, state.value, "$state"]}
            if state is RunState.CANCELLED:
                changes["cancel_time"] = {"$cond": [moves, self.now() if now is None else now, "$cancel_time"]}
        if turns is not None:
            changes |= {name: {"$literal": value} for name, value in turns._asdict().items()}
        if not changes:
            return await self.get_run(run_id)
        document = await self._connection.collection("runs").find_one_and_update(
            {"_id": storable(run_id)}, [{"$set": changes}], return_document=ReturnDocument.AFTER
        )
        if document is not None and (paused is not None or state is RunState.CANCELLED):
            await self._holds.follow([document["_id"]])
        if document is not None and turns is not None:
            await self._blocks.follow_turns(document["_id"])
        if document is None or state is None or not await self._finish([document["_id"]]):
            return run_from(document) if document else None
        return await self.get_run(run_id)

    @translating
    async def cancel_runs(self, run_ids: Sequence[str], *, function: str | None = None) -> dict[str, bool]:
        runs = self._connection.collection("runs")
        which: Document = {"_id": {"$in": [storable(run_id) for run_id in run_ids]}}
        if function is not None:
            which["function"] = storable(function)
        before = {document["_id"] async for document in runs.find({**which, **_CANCELLED}, {"_id": 1})}
        change = {"$set": {**_CANCELLED, "cancel_time": self.now()}}
        await runs.update_many({**which, "state": {"$ne": RunState.CANCELLED.value}, "finished": None}, change)
        cancelled = {document["_id"] async for document in runs.find({**which, **_CANCELLED}, {"_id": 1})}
        await self._holds.follow(sorted(cancelled))
        await self._finish(sorted(cancelled - before))
        return {run_id: run_id not in before for run_id in cancelled}

    @translating
    async def cancelled_runs(self, since: float, *, limit: int) -> list[str]:
        times: list[tuple[float, str]] = []
        for field, query in (
            ("cancel_time", {"cancel_time": {"$gt": since}}),
            ("created", {"cancel_time": None, "created": {"$gt": since}}),  # cancelled by an earlier version
        ):
            found = self._connection.collection("runs").find(
                {**_CANCELLED, **query}, {field: 1}, sort=[(field, DESCENDING)], limit=limit, hint="by_cancelling"
            )
            times += [(document[field], document["_id"]) async for document in found]
        return [run for _, run in sorted(times, reverse=True)[:limit]]

    @translating
    async def unswept_runs(self, *, due_before: float, limit: int) -> list[str]:
        runs = self._connection.collection("runs")
        left = runs.find({**_CANCELLED, "swept": None}, {"_id": 1}, limit=limit, hint="unswept")
        found = {document["_id"] async for document in left}
        waiting = self._connection.collection("outcomes").aggregate(
            [{"$match": {"held": {"$in": [None, True]}, "due": {"$lt": due_before}}}, {"$group": {"_id": "$run"}}],
            hint="backlog_rows",
        )
        ids = [document["_id"] async for document in waiting] if len(found) < limit else []
        for start in range(0, len(ids), _RUNS_AT_ONCE):
            among = {"_id": {"$in": ids[start : start + _RUNS_AT_ONCE]}}
            late = runs.find({**among, "$or": [_CANCELLED, {"finished": {"$gt": 0}}]}, {"_id": 1}, hint="_id_")
            found |= {document["_id"] async for document in late}
        return sorted(found)[:limit]

    @translating
    async def note_swept(self, run_ids: Sequence[str]) -> None:
        ids = [storable(run_id) for run_id in run_ids]
        await self._finish(ids)
        runs = self._connection.collection("runs")
        await runs.update_many({"_id": {"$in": ids}, **_CANCELLED}, {"$set": {"swept": True}})

    @translating
    async def remember_request(self, request: KeyedRequest) -> KeyedRequest:
        requests = self._connection.quick("requests")
        key = {"user": storable(request.user), "key": storable(request.key)}
        about = {"run": request.run, "digest": request.digest, "created": request.created}
        expires = datetime.fromtimestamp(request.created + KEYS_KEPT, UTC)
        while True:
            try:
                await requests.insert_one({"_id": key, **about, "expires": expires})
            except DuplicateKeyError:
                found = await requests.find_one({"_id": key})
            else:
                return request
            if found is not None:  # else it was forgotten just now
                return replace(request, run=found["run"], digest=found["digest"], created=found["created"])

    @translating
    async def find_request(self, user: str, key: str) -> KeyedRequest | None:
        _id = {"user": storable(user), "key": storable(key)}
        found = await self._connection.quick("requests").find_one({"_id": _id})
        return KeyedRequest(user, key, found["run"], found["digest"], found["created"]) if found is not None else None

    # blocks

    async def add_blocks(
        self, blocks: Sequence[Block], *, run: Run | None = None, claim: Claim | None = None
    ) -> list[bool]:
        return await self._blocks.add(blocks, run, claim)

    async def get_block(self, block_id: str) -> Block | None:
        return await self._blocks.get(block_id)

    async def list_blocks(self, run_id: str, *, limit: int = 100, after: int = -1) -> list[Outcome]:
        return await self._blocks.list_outcomes(run_id, limit, after)

    async def mark_published(self, block_ids: Sequence[str]) -> None:
        await self._blocks.mark_published(block_ids)

    async def backlog(self) -> list[Backlog]:
        return await self._blocks.backlog()

    async def backlog_blocks(self, rows: Sequence[tuple[Backlog, int]]) -> list[list[Unsent]]:
        return await self._blocks.backlog_blocks(rows)

    async def note_sent(self, sent: Mapping[str, int]) -> None:
        await self._blocks.note_sent(sent)

    async def extend_claims(self, block_ids: Sequence[str], claim: Claim) -> list[str]:
        return await self._blocks.extend(block_ids, claim)

    async def release_claims(self, block_ids: Sequence[str], holder: str) -> None:
        await self._blocks.release(block_ids, holder)

    @translating
    async def recheck_holds(self) -> None:
        await self._holds.recheck()

    # outcomes

    async def record(self, candidates: Sequence[Candidate], *, finish: bool = True) -> list[int | None]:
        accepted = await self._recorder.record(candidates)
        # Also for repeats: whoever recorded these first may have died before it looked.
        if finish and (runs := runs_of(each.block for each in candidates if each.ended)):
            await self.finish_runs(runs)
        return accepted

    async def get_outcome(self, block_id: str) -> Outcome | None:
        return await self._results.outcome(block_id)

    async def inspect_block(self, block_id: str) -> BlockRecord | None:
        return await self._results.inspect(block_id)

    async def get_parts(self, block_id: str) -> list[Part]:
        return await self._results.parts(block_id)

    async def uncollected_parts(self, run_id: str, *, max_jobs: int) -> list[Part]:
        return await self._results.uncollected(run_id, max_jobs)

    async def uncollected_counts(self, run_ids: Sequence[str]) -> dict[str, int]:
        return await self._results.uncollected_counts(run_ids)

    async def collect(self, run_id: str, receipts: Iterable[str]) -> int:
        return await self._results.collect(run_id, parse_receipts(receipts))

    async def collect_jobs(self, user: str, job_ids: Iterable[str]) -> int:
        return await self._results.collect_jobs(user, parse_job_ids(job_ids))

    async def run_statistics(self, run_id: str) -> Statistics:
        return await self._statistics(RUN, run_id)

    async def user_statistics(self, user: str) -> Statistics:
        return await self._statistics(USER, user)

    @translating
    async def _statistics(self, kind: str, of: str) -> Statistics:
        name = storable(of)
        counts, waiting = await asyncio.gather(self._tallies.counts(kind, name), self._delayed_count({kind: name}))
        counts["delayed"] += waiting
        return Statistics(**counts)

    @translating
    async def keep_counts(self) -> bool:
        return await self._tallies.take_over()

    async def retrievables(self, user: str, *, limit: int, after: str | None = None) -> list[str]:
        return await self._results.retrievables(user, limit, await self.job_place(after))

    # dead letters

    @translating
    async def add_dead_letters(self, letters: Sequence[DeadLetter]) -> None:
        documents = [dead_letter_document(letter) | await self._bodies.place(letter.body) for letter in letters]
        repeated = await insert_new(self._connection.collection("dead_letters"), documents)
        await self._bodies.drop_of(documents[position] for position in repeated)

    async def list_dead_letters(self, *, limit: int = 100, after: str | None = None) -> list[DeadLetter]:
        query = {"_id": {"$gt": storable(after or "")}}
        return [
            dead_letter_from(document, await self._bodies.of(document))
            for document in await self._list("dead_letters", query, limit=limit)
        ]

    # the common kinds of operation

    @translating
    async def _get(self, collection: str, key: str) -> Document | None:
        document: Document | None = await self._connection.committed(collection).find_one({"_id": storable(key)})
        return document

    @translating
    async def _list(
        self, collection: str, query: Document, *, limit: int = 0, order: int = ASCENDING
    ) -> list[Document]:
        found = self._connection.committed(collection).find(query, sort=[("_id", order)], limit=limit)
        documents: list[Document] = await found.to_list(None)
        return documents

    @translating
    async def _insert(self, collection: str, document: Document, taken: str) -> None:
        try:
            await self._connection.collection(collection).insert_one(document)
        except DuplicateKeyError as error:
            raise DuplicateKey(taken) from error
