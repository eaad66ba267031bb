"""What a MongoDB store does with blocks whose messages may have been lost."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Mapping, Sequence

from bson import ObjectId
from pymongo import ASCENDING, IndexModel, UpdateOne

from dts.model import Outcome, bitmap
from dts.store.abc import Store
from dts.store.contract.shared import storable
from dts.store.mongo.connection import MongoConnection, translating
from dts.store.mongo.documents import GUARDED, Document, outcome_from

PUBLISHED = IndexModel(
    [("function", ASCENDING), ("_id", ASCENDING)],
    name="published",
    partialFilterExpression={"open": True, "published": True},
)
"""Of outcomes."""


class MongoRepairStore(Store):
    """The part of a MongoDB store that is about lost messages. Not a store by itself."""

    _connection: MongoConnection

    @translating
    async def published_blocks(
        self, *, function: str, older_than: float, limit: int = 100, after: str = ""
    ) -> list[Outcome]:
        outcomes, runs = self._connection.collection("outcomes"), self._connection.collection("runs")
        query: Document = {
            "function": storable(function),
            "open": True,
            "published": True,
            "created": {"$lt": older_than},
            "lease": {"$lte": time.time()},
            "_id": {"$gt": storable(after)},
        }
        held: list[str] = []
        while True:
            if held:
                query["run"] = {"$nin": held}
            found = await outcomes.find(
                query, GUARDED, sort=[("_id", ASCENDING)], limit=limit, hint="published"
            ).to_list(limit)
            in_question = {"_id": {"$in": list({document["run"] for document in found})}}
            not_now = {"$or": [{"paused": True}, {"state": "cancelled"}]}
            more = [run["_id"] async for run in runs.find({**in_question, **not_now}, {"_id": 1})] if found else []
            if not more:
                return [outcome_from(document) for document in found]
            held += more

    @translating
    async def claim_published(self, seconds: Mapping[str, float]) -> list[str]:
        if not seconds:
            return []
        now, claimant = time.time(), ObjectId()
        outcomes = self._connection.quick("outcomes")
        await outcomes.bulk_write(
            [
                UpdateOne(
                    {"_id": storable(block), "published": True, "lease": {"$lte": now}},
                    {"$set": {"lease": now + lease, "claimant": claimant}},
                )
                for block, lease in seconds.items()
            ],
            ordered=False,
        )
        mine = {"_id": {"$in": [storable(block) for block in seconds]}, "claimant": claimant}
        return [document["_id"] async for document in outcomes.find(mine, {"_id": 1})]

    @translating
    async def waiting_jobs(self, block_ids: Sequence[str]) -> dict[str, int]:
        among = {"block": {"$in": [storable(each) for each in block_ids]}}
        found: defaultdict[str, int] = defaultdict(int)
        slices = self._connection.collection("delayed")
        async for document in slices.find({**among, "waits": True}, {"block": 1, "jobs": 1, "released": 1}):
            waiting = bitmap.from_bytes(document["jobs"]) | bitmap.from_bytes(document.get("released", b""))
            found[document["block"]] |= waiting
        leases = self._connection.collection("leases")
        async for document in leases.find({**among, "expires": {"$gt": 0}}, {"block": 1, "job": 1}):
            found[document["block"]] |= 1 << document["job"]
        return dict(found)
