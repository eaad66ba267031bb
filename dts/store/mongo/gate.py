"""What a MongoDB store does for limits: gated slices, who holds what, rates.

Who holds something, and whose turn it is, goes by the server's clock: one for all processes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from pymongo import ASCENDING, IndexModel, ReturnDocument
from pymongo.errors import DuplicateKeyError

from dts.model import DelayedSlice
from dts.store.abc import Store
from dts.store.contract.gate import GatedGroup, Release
from dts.store.contract.shared import spacing, storable
from dts.store.mongo.connection import Collection, MongoConnection, translating
from dts.store.mongo.documents import Document
from dts.store.mongo.holds import Holds
from dts.store.mongo.waiting import MADE, bitmap_bytes, has_fired, slice_from

GATE_INDEXES: dict[str, list[IndexModel]] = {
    "turns": [IndexModel([("expires", ASCENDING)], expireAfterSeconds=0)],
}

_GATED = {"since": {"$gt": 0}}
_NOW = {"$multiply": [{"$toLong": "$$NOW"}, 1_000_000]}  # nanoseconds since the epoch


class MongoGateStore(Store):
    """The part of a MongoDB store that is about limits. Not a store by itself."""

    _connection: MongoConnection
    _holds: Holds

    # the gate

    @translating
    async def gate_delayed(self, ids: Sequence[str], *, due: float) -> None:
        await self._connection.collection("delayed").update_many(
            {"_id": {"$in": list(ids)}, "waits": True, "due": {"$exists": True}},
            {"$set": {"since": due}, "$unset": {"due": ""}},
        )

    @translating
    async def reorder_gated(self, run_id: str, function: str, *, due: float) -> None:
        of_both = {"run": storable(run_id), "function": storable(function)}
        mine = {**of_both, "waits": True, "since": {"$exists": True}}
        await self._connection.quick("delayed").update_many(mine, {"$set": {"since": due}})

    @translating
    async def gated_groups(self) -> list[GatedGroup]:
        group = {"_id": {"user": "$user", "function": "$function"}, "first": {"$min": "$since"}}
        found = self._connection.collection("delayed").aggregate(
            [{"$match": _GATED}, {"$group": group}], hint="at_gate"
        )
        return [GatedGroup(**document["_id"], first=document["first"]) async for document in found]

    @translating
    async def list_gated(self, user: str, function: str, *, limit: int) -> list[DelayedSlice]:
        query: Document = {"user": storable(user), "function": storable(function), **_GATED}
        found = await self._holds.find("delayed", query, order="since", limit=limit, index="at_gate")
        return [slice_from(document) for document in found]

    @translating
    async def list_released(self, *, limit: int) -> list[DelayedSlice]:
        found = self._connection.collection("delayed").find(
            {**_GATED, "released": {"$gt": b""}}, limit=limit, hint="at_gate"
        )
        return [slice_from(document) async for document in found]

    @translating
    async def release_gated(self, releases: Sequence[Release]) -> list[bool]:
        slices = self._connection.quick("delayed")
        answers = await asyncio.gather(*(slices.update_one(*_release(each)) for each in releases))
        return [answer.matched_count == 1 for answer in answers]

    @translating
    async def confirm_released(self, ids: Sequence[str], *, now: float) -> None:
        slices, mine = self._connection.quick("delayed"), {"_id": {"$in": list(ids)}, **_GATED}
        await slices.update_many({**mine, "count": 0}, has_fired(now))
        await slices.update_many(mine, {"$set": {"released": b""}})

    @translating
    async def jobs_in_flight(
        self,
        *,
        user: str | None = None,
        function: str | None = None,
        namespace: str | None = None,
        blocks: Sequence[str] | None = None,
    ) -> dict[str, int]:
        subject: Document = {}
        if user is not None:
            subject["user"] = storable(user)
        if function is not None:
            subject["function"] = storable(function)
        elif namespace is not None:  # what follows the slash comes before what follows the next character
            subject["function"] = {"$gte": f"{storable(namespace)}/", "$lt": f"{storable(namespace)}0"}
        among = None if blocks is None else {"$in": [storable(each) for each in blocks]}
        ended = {"$add": ["$succeeded", "$failed", "$cancelled"]}
        waiting = [
            {"$match": {**subject, "waits": True} | ({"block": among} if among else {})},
            {"$project": {"_id": "$block", "jobs": {"$subtract": [0, "$count"]}}},
        ]
        found = self._connection.collection("outcomes").aggregate(
            [
                {"$match": {**subject, "open": True, "published": True} | ({"_id": among} if among else {})},
                {"$project": {"jobs": {"$subtract": ["$count", ended]}}},
                {"$unionWith": {"coll": "delayed", "pipeline": waiting}},
                {"$group": {"_id": "$_id", "jobs": {"$sum": "$jobs"}}},
                {"$match": {"jobs": {"$gt": 0}}},
            ]
        )
        return {document["_id"]: int(document["jobs"]) async for document in found}

    # who does what only one may do

    @translating
    async def acquire(self, name: str, holder: str, *, seconds: float) -> bool:
        me = {"$literal": holder}
        free = {"$or": [{"$eq": ["$holder", me]}, {"$lte": [{"$ifNull": ["$until", 0]}, _NOW]}]}
        until = {"$add": [_NOW, int(seconds * 1e9)]}
        kept = {
            "holder": {"$cond": [free, me, "$holder"]},
            "until": {"$cond": [free, until, {"$min": ["$until", until]}]},
        }
        document = await _upsert(self._connection.collection("holders"), name, [{"$set": kept}])
        return bool(document["holder"] == holder)

    @translating
    async def release(self, name: str, holder: str) -> None:
        await self._connection.quick("holders").delete_one({"_id": name, "holder": holder})

    # rates

    @translating
    async def take_token(self, subject: str, *, rate: float) -> float:
        between, saved = spacing(rate)
        # As `dts.store.contract.shared.turn` has it, in the server.
        due = {"$min": [{"$max": [{"$ifNull": ["$due", 0]}, _NOW]}, {"$add": [_NOW, saved]}]}
        early = {"$subtract": [{"$add": ["$due", between]}, {"$add": [_NOW, saved]}]}
        taken = {"due": {"$cond": [{"$lte": ["$early", 0]}, {"$add": ["$due", between]}, "$due"]}}
        expires = {"$toDate": {"$add": [{"$toLong": {"$divide": ["$due", 1_000_000]}}, 1]}}
        changes: list[Document] = [
            {"$set": {"due": due}},
            {"$set": {"early": early}},
            {"$set": taken},
            {"$set": {"expires": expires}},
        ]
        document = await _upsert(self._connection.quick("turns"), storable(subject), changes)
        return max(0.0, float(document["early"]) / 1e9)


async def _upsert(collection: Collection, key: str, changes: list[Document]) -> Document:
    """Change the document of that id, or one that has nothing else; the document as it is then."""
    while True:
        try:
            document: Document | None = await collection.find_one_and_update(
                {"_id": key}, changes, upsert=True, return_document=ReturnDocument.AFTER
            )
        except DuplicateKeyError:
            continue  # another made it at the same time
        if document is not None:
            return document


def _release(each: Release) -> tuple[Document, list[Document]]:
    """Which document a release changes, and how. What it planned is kept before a part of its jobs is no more there."""
    released = bitmap_bytes(each.slice.released | each.jobs)
    change = {"jobs": bitmap_bytes(each.left), "count": each.left.bit_count(), "released": released}
    return {"_id": each.slice.id, **_GATED, "jobs": bitmap_bytes(each.slice.jobs)}, [{"$set": {"made": MADE, **change}}]
