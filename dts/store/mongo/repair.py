"""What a MongoDB store does with blocks whose messages may have been lost."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

from bson import ObjectId
from pymongo import ASCENDING, IndexModel, UpdateOne

from dts.model import Outcome, bitmap
from dts.store.abc import Store
from dts.store.contract.shared import storable
from dts.store.mongo.connection import MongoConnection, translating
from dts.store.mongo.documents import GUARDED, Document, outcome_from
from dts.store.mongo.holds import Holds

PUBLISHED = IndexModel(
    [("function", ASCENDING), ("held", ASCENDING), ("_id", ASCENDING)],
    name="at_broker",
    partialFilterExpression={"open": True, "published": True},
)
"""Of outcomes."""


class MongoRepairStore(Store):
    """The part of a MongoDB store that is about lost messages. Not a store by itself."""

    _connection: MongoConnection
    _holds: Holds

    @translating
    async def published_blocks(
        self, *, function: str, older_than: float, limit: int = 100, after: str = ""
    ) -> list[Outcome]:
        query: Document = {
            "function": storable(function),
            "open": True,
            "published": True,
            "created": {"$lt": older_than},
            "lease": {"$lte": self._connection.now()},
            "_id": {"$gt": storable(after)},
        }
        found = await self._holds.find("outcomes", query, order="_id", limit=limit, index="at_broker", fields=GUARDED)
        return [outcome_from(document) for document in found]

    @translating
    async def claim_published(self, seconds: Mapping[str, float], holder: str) -> list[str]:
        if not seconds:
            return []
        now, mark, claimed = self._connection.now(), ObjectId(), {"claimant": storable(holder)}
        outcomes = self._connection.quick("outcomes")
        await outcomes.bulk_write(
            [
                UpdateOne(
                    {"_id": storable(block), "published": True, "lease": {"$lte": now}},
                    {"$set": {**claimed, "lease": now + lease, "mark": mark}},
                )
                for block, lease in seconds.items()
            ],
            ordered=False,
        )
        mine = {"_id": {"$in": [storable(block) for block in seconds]}, "mark": mark}
        return [document["_id"] async for document in outcomes.find(mine, {"_id": 1})]

    @translating
    async def waiting_jobs(self, block_ids: Sequence[str], *, leased: bool = True) -> dict[str, int]:
        among = {"block": {"$in": [storable(each) for each in block_ids]}}
        found: defaultdict[str, int] = defaultdict(int)
        slices = self._connection.collection("delayed")
        async for document in slices.find({**among, "waits": True}, {"block": 1, "jobs": 1, "released": 1}):
            released = bitmap.from_bytes(document.get("released", b"")) if leased else 0
            found[document["block"]] |= bitmap.from_bytes(document["jobs"]) | released
        leases = self._connection.collection("leases")
        if not leased:
            return dict(found)
        async for document in leases.find({**among, "expires": {"$gt": 0}}, {"block": 1, "job": 1}):
            found[document["block"]] |= 1 << document["job"]
        return dict(found)
