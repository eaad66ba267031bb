"""What a MongoDB store does with jobs that wait: delayed slices, leases, deadlines, cancellations.

A slice that has fired stays as its id with the time, so that the news that made it cannot make it again, and with what
it planned.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from bson import ObjectId
from pymongo import ASCENDING, DESCENDING, DeleteOne, IndexModel, ReturnDocument, UpdateOne
from pymongo.errors import DuplicateKeyError

from dts.model import DelayedSlice, Lease, Outcome, bitmap
from dts.store.abc import Store
from dts.store.contract.shared import counts_from_text, counts_to_text, planned_by_pages, storable
from dts.store.mongo.connection import MongoConnection, insert_new, translating
from dts.store.mongo.documents import GUARDED, Document, outcome_from
from dts.store.mongo.holds import Holds

WAITS = {"waits": True}

MADE = {"$ifNull": ["$made", "$jobs"]}
"""What a slice has planned; one of an earlier version has but the jobs that still wait."""


def _index(*fields: str, **options: Any) -> IndexModel:
    return IndexModel([(field, ASCENDING) for field in fields], **options)


WAITING_INDEXES: dict[str, list[IndexModel]] = {
    "delayed": [
        _index("held", "due", "run", "lease", name="free", partialFilterExpression=WAITS),
        _index("block", name="by_block", partialFilterExpression=WAITS),
        _index("run", "count", name="by_run", partialFilterExpression=WAITS),
        _index("user", "count", name="by_user", partialFilterExpression=WAITS),
        _index("function", "block", "count", name="of_function", partialFilterExpression=WAITS),
        _index("user", "function", "held", "since", name="at_gate", partialFilterExpression={"since": {"$gt": 0}}),
        _index("block", "attempt", name="made", partialFilterExpression={"attempt": {"$gt": 0}}),
        _index("fired", name="fired", partialFilterExpression={"fired": {"$exists": True}}),
    ],
    "leases": [
        _index("block", "job", unique=True),
        _index("expires", name="held", partialFilterExpression={"expires": {"$gt": 0}}),
    ],
    "cancellations": [_index("time")],
}


class MongoWaitingStore(Store):
    """The part of a MongoDB store that is about jobs that wait. Not a store by itself."""

    _connection: MongoConnection
    _holds: Holds

    # delayed slices

    @translating
    async def add_delayed(self, slices: Sequence[DelayedSlice]) -> list[bool]:
        repeated = await insert_new(self._connection.collection("delayed"), [_slice_document(each) for each in slices])
        return [position not in repeated for position in range(len(slices))]

    @translating
    async def claim_delayed(self, *, now: float, limit: int, lease: float) -> list[DelayedSlice]:
        free = {**WAITS, "due": {"$lte": now}, "lease": {"$lte": now}}
        found = await self._holds.find("delayed", free, order="due", limit=limit, index="free", fields={"run": 1})
        if not found:
            return []
        ids = [document["_id"] for document in found]
        mine = {"_id": {"$in": ids}, "claimant": ObjectId()}
        slices = self._connection.quick("delayed")
        await slices.update_many(
            {"_id": mine["_id"], **free}, {"$set": {"lease": now + lease, "claimant": mine["claimant"]}}
        )
        return [slice_from(document) async for document in slices.find(mine, sort=[("due", ASCENDING)])]

    @translating
    async def finish_delayed(self, ids: Sequence[str], *, now: float) -> None:
        if ids:
            await self._connection.collection("delayed").update_many(
                {"_id": {"$in": list(ids)}, **WAITS},
                has_fired(now),
            )

    @translating
    async def list_delayed(self, block_id: str) -> list[DelayedSlice]:
        query = {"block": storable(block_id), **WAITS}
        found = [slice_from(document) async for document in self._connection.collection("delayed").find(query)]
        return sorted(found, key=lambda each: each.due)

    async def planned_attempts(self, after: Mapping[str, int]) -> dict[str, dict[int, int]]:
        return await planned_by_pages(after, self._planned)

    @translating
    async def _planned(self, after: Mapping[str, int], limit: int) -> list[tuple[str, int, int]]:
        """Block, attempt and jobs of slices, as `planned_by_pages` takes them."""
        slices = self._connection.collection("delayed")
        fields = {"block": 1, "attempt": 1, "made_offset": 1, "made": MADE}
        order = [("block", ASCENDING), ("attempt", ASCENDING)]
        found = await slices.find(_planned_after(after), fields, sort=order, limit=limit).to_list(None)
        if len(found) >= limit:
            last = {"block": found[-1]["block"], "attempt": found[-1]["attempt"]}
            found += await slices.find(last, fields).to_list(None)
        return [
            (each["block"], each["attempt"], bitmap.from_window(each.get("made_offset", 0), each.get("made", b"")))
            for each in found
        ]

    @translating
    async def forget_delayed(self, before: float) -> int:
        deleted = await self._connection.quick("delayed").delete_many({"fired": {"$lt": before}})
        return int(deleted.deleted_count)

    # leases

    @translating
    async def take_leases(self, leases: Sequence[Lease]) -> list[bool]:
        return [await self._take(lease) for lease in leases]

    async def _take(self, lease: Lease) -> bool:
        document = _lease_document(lease)
        expires = document.pop("expires")
        older = {"$or": [{"fence": {"$lt": lease.fence}}, {"fence": lease.fence, "lost": False}]}
        update = {"$set": document, "$max": {"expires": expires}}
        try:
            await self._connection.collection("leases").update_one({**_job_of(lease), **older}, update, upsert=True)
        except DuplicateKeyError:
            return False
        return True

    @translating
    async def list_leases(self, block_ids: Sequence[str]) -> list[Lease]:
        query = {"block": {"$in": [storable(each) for each in block_ids]}}
        return [lease_from(document) async for document in self._connection.collection("leases").find(query)]

    @translating
    async def expired_leases(self, *, now: float, limit: int) -> list[Lease]:
        query = {"expires": {"$gt": 0, "$lt": now}}
        found = self._connection.collection("leases").find(query, sort=[("expires", ASCENDING)], limit=limit)
        return [lease_from(document) async for document in found]

    @translating
    async def lose_lease(self, lease: Lease) -> Lease | None:
        document = await self._connection.collection("leases").find_one_and_update(
            {**_job_of(lease), "fence": lease.fence, "expires": lease.expires, "lost": False},
            {"$inc": {"fence": 1}, "$set": {"lost": True}},
            return_document=ReturnDocument.AFTER,
        )
        return lease_from(document) if document else None

    @translating
    async def queue_lease(self, lease: Lease) -> None:
        await self._connection.collection("leases").update_one(
            {**_job_of(lease), "fence": lease.fence, "lost": True}, {"$set": {"expires": None, "lost": False}}
        )

    @translating
    async def pass_lease(self, lease: Lease) -> bool:
        result = await self._connection.collection("leases").update_one(
            {**_job_of(lease), "fence": lease.fence, "lost": False}, {"$inc": {"fence": 1}, "$set": {"expires": None}}
        )
        return bool(result.modified_count)

    @translating
    async def release_jobs(self, jobs: Mapping[str, int]) -> None:
        ended = {storable(block): each for block, each in jobs.items() if each}
        blocks = {"block": {"$in": list(ended)}}
        slices, leases = self._connection.quick("delayed"), self._connection.quick("leases")
        updates: list[UpdateOne] = []
        async for document in slices.find({**blocks, **WAITS}, {"block": 1, "jobs": 1}):
            left = bitmap.from_bytes(document["jobs"]) & ~ended[document["block"]]
            # Guarded: another process may have taken other jobs out meanwhile; what is left over is skipped when due.
            updates.append(
                UpdateOne(
                    {"_id": document["_id"], "jobs": document["jobs"]},
                    {"$set": {"jobs": bitmap_bytes(left), "count": left.bit_count()}},
                )
            )
        if updates:
            await slices.bulk_write(updates, ordered=False)
        over = [
            DeleteOne({"_id": document["_id"]})
            async for document in leases.find(blocks, {"block": 1, "job": 1})
            if ended[document["block"]] >> document["job"] & 1
        ]
        if over:
            await leases.bulk_write(over, ordered=False)

    # deadlines

    @translating
    async def overdue_blocks(self, *, now: float, limit: int) -> list[Outcome]:
        query = {"deadline": {"$gt": 0, "$lt": now}, "open": True}
        found = self._connection.collection("outcomes").find(query, GUARDED, sort=[("deadline", 1)], limit=limit)
        return [outcome_from(document) async for document in found]

    @translating
    async def set_deadlines(self, deadlines: Mapping[str, float]) -> None:
        updates = [
            UpdateOne({"_id": storable(block)}, {"$set": {"deadline": deadline}} if deadline else _NO_DEADLINE)
            for block, deadline in deadlines.items()
        ]
        if updates:
            await self._connection.quick("outcomes").bulk_write(updates, ordered=False)

    # cancellations

    @translating
    async def unfinished_blocks(
        self,
        *,
        user: str | None = None,
        function: str | None = None,
        runs: Sequence[str] | None = None,
        limit: int = 100,
        after: str = "",
    ) -> list[Outcome]:
        query: Document = {"open": True, "_id": {"$gt": storable(after)}}
        query |= {
            field: storable(value) for field, value in (("user", user), ("function", function)) if value is not None
        }
        index = "open_by_user" if user is not None else "open_by_function" if function is not None else "_id_"
        if runs is not None:
            query["run"], index = {"$in": [storable(run) for run in runs]}, "open_of_run"
        found = self._connection.collection("outcomes").find(query, GUARDED, sort=[("_id", 1)], limit=limit, hint=index)
        return [outcome_from(document) async for document in found]

    @translating
    async def note_cancelled(self, ids: Sequence[str], *, now: float) -> None:
        updates = [UpdateOne({"_id": storable(each)}, {"$set": {"time": now}}, upsert=True) for each in ids]
        if updates:
            await self._connection.collection("cancellations").bulk_write(updates, ordered=False)

    @translating
    async def recently_cancelled(self, since: float, *, limit: int) -> list[str]:
        cancellations = self._connection.quick("cancellations")
        found = cancellations.find({"time": {"$gt": since}}, sort=[("time", DESCENDING)], limit=limit)
        return [document["_id"] async for document in found]

    @translating
    async def forget_cancelled(self, before: float) -> None:
        await self._connection.quick("cancellations").delete_many({"time": {"$lt": before}})

    async def _delayed_count(self, of: Document) -> int:
        """How many jobs wait for a time, of a run or of a user."""
        sums = {"$group": {"_id": None, "jobs": {"$sum": "$count"}}}
        found = self._connection.collection("delayed").aggregate([{"$match": {**of, **WAITS}}, sums])
        return sum([document["jobs"] async for document in found])


_NO_DEADLINE = {"$unset": {"deadline": ""}}


def _job_of(lease: Lease) -> Document:
    return {"block": storable(lease.block), "job": lease.job}


def _planned_after(after: Mapping[str, int]) -> Document:
    """Slices of blocks, by their ids, for later attempts than these; `made` is the index for it."""
    blocks: defaultdict[int, list[str]] = defaultdict(list)
    for block, attempt in after.items():
        blocks[attempt].append(block)
    queries = [{"block": {"$in": those}, "attempt": {"$gt": attempt}} for attempt, those in blocks.items()]
    return queries[0] if len(queries) == 1 else {"$or": queries}


def has_fired(now: float) -> list[Document]:
    """The update that leaves of a slice what is remembered of it."""
    kept = {name: f"${name}" for name in ("_id", "block", "attempt", "made_offset")}
    return [{"$replaceWith": {**kept, "made": MADE, "fired": {"$literal": now}}}]


def _slice_document(each: DelayedSlice) -> Document:
    made_offset, made = bitmap.to_window(each.jobs)
    return {
        "_id": each.id,
        "block": each.block,
        "run": each.run,
        "user": each.user,
        "function": each.function,
        ("since" if each.gated else "due"): each.due,
        "jobs": bitmap_bytes(each.jobs),
        "count": each.jobs.bit_count(),
        "attempt": each.attempt,
        "kills": counts_to_text(each.kills),
        "fences": counts_to_text(each.fences),
        "content_encoding": each.content_encoding,
        "body": each.body,
        "lease": 0.0,
        "waits": True,
        "released": bitmap_bytes(each.released),
        "made_offset": made_offset,
        "made": made,
    }


def bitmap_bytes(jobs: int) -> bytes:
    """A bitmap of jobs of a block whose size is not at hand."""
    return bitmap.to_bytes(jobs, jobs.bit_length())


def slice_from(document: Document) -> DelayedSlice:
    """The slice of a document; one that is gated is due `since` a time, lest anybody looks for it among the others."""
    return DelayedSlice(
        id=document["_id"],
        block=document["block"],
        run=document["run"],
        user=document["user"],
        function=document["function"],
        due=document["since"] if "since" in document else document["due"],
        jobs=bitmap.from_bytes(document["jobs"]),
        attempt=document["attempt"],
        kills=counts_from_text(document["kills"]),
        fences=counts_from_text(document["fences"]),
        body=document["body"],
        content_encoding=document["content_encoding"],
        gated="since" in document,
        released=bitmap.from_bytes(document.get("released", b"")),
    )


def _lease_document(lease: Lease) -> Document:
    return {
        **_job_of(lease),
        "run": storable(lease.run),
        "worker": storable(lease.worker),
        "fence": lease.fence,
        "attempt": lease.attempt,
        "expires": lease.expires,
        "lost": lease.lost,
    }


def lease_from(document: Document) -> Lease:
    del document["_id"]
    return Lease(**document)
