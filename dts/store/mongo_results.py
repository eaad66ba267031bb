"""What a MongoDB store does with outcomes that are asked for: parts on their way to clients, receipts, statistics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from bson import ObjectId
from pymongo import UpdateOne

from dts.model import Outcome, Part, Statistics, bitmap
from dts.store.mongo_bodies import Bodies
from dts.store.mongo_connection import MongoConnection, translating
from dts.store.mongo_documents import GUARDED, Document, outcome_from
from dts.store.mongo_parts import ALL_BATCHES, StoredBatch, StoredPart, open_batches, unpack
from dts.store.shared import Page, job_ids, storable

_FEW = 64  # outcomes in a batch of a look for enough jobs
_COLLECTORS = 32  # last collects that an outcome names; as many would have to come in the ms between write and look


class Results:
    """Outcomes, their parts, and how many jobs are in which state."""

    def __init__(self, connection: MongoConnection, bodies: Bodies) -> None:
        self._connection = connection
        self._bodies = bodies

    @translating
    async def outcome(self, block_id: str) -> Outcome | None:
        """What became of a block so far."""
        document = await self._connection.collection("outcomes").find_one({"_id": storable(block_id)}, GUARDED)
        return outcome_from(document) if document else None

    @translating
    async def parts(self, block_id: str) -> list[Part]:
        """All parts of a block by number."""
        document = await self._connection.collection("outcomes").find_one(
            {"_id": storable(block_id)}, {"batches": ALL_BATCHES}
        )
        batches = unpack(document["batches"]) if document else ()
        return [await self._whole(block_id, part) for batch in batches for part in batch.parts]

    async def _whole(self, block: str, part: StoredPart) -> Part:
        body = part.body if part.beside is None else await self._bodies.get(part.beside)
        return Part(block, part.number, part.jobs, body, part.content_encoding)

    @translating
    async def uncollected(self, run_id: str, max_jobs: int) -> list[Part]:
        """A page of a run's parts that are not collected."""
        enough = await self._with_uncollected({"run": storable(run_id)}, ["number"], max_jobs)
        if not enough:
            return []
        page = Page(max_jobs)
        parts: list[Part] = []
        found = self._connection.collection("outcomes").find(
            {"_id": {"$in": enough}}, _with_open_batches(bodies=True), sort=[("number", 1)]
        )
        async for document in found:
            for part in _uncollected(document):
                if not page.take(part.count, part.size):
                    await found.close()
                    return parts
                parts.append(await self._whole(document["_id"], part))
        return parts

    async def _with_uncollected(self, of: Document, order: Sequence[str], jobs: int) -> list[str]:
        """The ids of so many outcomes that they have `jobs` uncollected jobs, or of all there are; from an index."""
        found = self._connection.collection("outcomes").find(
            {**of, "uncollected": {"$gt": 0}},
            {"uncollected": 1},
            sort=[(field, 1) for field in order],
            batch_size=_FEW,
        )
        ids: list[str] = []
        while batch := await found.to_list(_FEW):
            for document in batch:
                ids.append(document["_id"])
                jobs -= document["uncollected"]
                if jobs <= 0:
                    await found.close()
                    return ids
        return ids

    @translating
    async def collect(self, run_id: str, receipts: Mapping[int, set[int]]) -> int:
        """Mark parts as collected, given by block number; how many jobs they hold."""
        run = storable(run_id)
        collected = 0
        left = dict(receipts)
        while left:
            outcomes = self._connection.collection("outcomes")
            found = await outcomes.find(
                {"run": run, "number": {"$in": list(left)}, "uncollected": {"$gt": 0}},
                _with_open_batches(bodies=False) | {"number": 1, "collects": 1},
            ).to_list(None)
            marks = [mark for document in found if (mark := _Mark(document, left[document["number"]])).jobs]
            if not marks:
                break
            collector = ObjectId()
            result = await outcomes.bulk_write([mark.update(collector) for mark in marks], ordered=False)
            done = {mark.block for mark in marks}
            if result.matched_count < len(marks):
                written = outcomes.find({"_id": {"$in": list(done)}, "collectors": collector}, {"_id": 1})
                done = {document["_id"] async for document in written}
            collected += sum(mark.jobs for mark in marks if mark.block in done)
            left = {mark.number: left[mark.number] for mark in marks if mark.block not in done}
        return collected

    @translating
    async def statistics(self, of: Document) -> Statistics:
        """The states of the jobs of a run or of a user."""
        ended = {"$add": ["$succeeded", "$failed", "$cancelled", "$at_work"]}
        unpublished = {"$cond": ["$published", 0, {"$max": [0, {"$subtract": ["$count", ended]}]}]}
        accepted = {"$cond": ["$not_before", 0, unpublished]}
        delayed = {"$cond": ["$not_before", unpublished, 0]}
        states = {"total": "$count", "accepted": accepted, "running": "$at_work", "delayed": delayed} | {
            state: f"${state}" for state in ("succeeded", "failed", "cancelled")
        }
        sums = {name: {"$sum": value} for name, value in states.items()}
        found = self._connection.collection("outcomes").aggregate([{"$match": of}, {"$group": {"_id": None, **sums}}])
        for document in await found.to_list(1):
            del document["_id"]
            return Statistics(**document)
        return Statistics()

    @translating
    async def retrievables(self, user: str, limit: int) -> list[str]:
        """Ids of a user's jobs that have ended and are not collected."""
        order = ["run", "number"]
        enough = await self._with_uncollected({"user": storable(user)}, order, limit)
        found = self._connection.collection("outcomes").find(
            {"_id": {"$in": enough}},
            _with_open_batches(bodies=False) | {"run": 1, "first": 1},
            sort=[(field, 1) for field in order],
        )
        ids: list[str] = []
        async for document in found:
            ids.extend(job_ids(document["run"], document["first"], (part.jobs for part in _uncollected(document))))
        return ids[:limit]


def _with_open_batches(*, bodies: bool) -> Document:
    """The projection of what tells which parts of an outcome are not collected."""
    return {"collected": 1, "batches": open_batches(bodies=bodies)}


def _uncollected(document: Document) -> list[StoredPart]:
    """The parts that are not collected of an outcome that was read with its open batches."""
    collected = bitmap.from_bytes(document["collected"])
    parts = (part for batch in unpack(document["batches"]) for part in batch.parts)
    return sorted((part for part in parts if not collected >> part.number & 1), key=lambda part: part.number)


class _Mark:
    """Parts of one block that are about to be marked as collected, as far as they are not yet."""

    def __init__(self, document: Document, numbers: set[int]) -> None:
        chosen = [part for part in _uncollected(document) if part.number in numbers]
        self.block: str = document["_id"]
        self.number: int = document["number"]
        self.jobs: int = sum(part.count for part in chosen)
        self._collects: int = document["collects"]
        self._after = bitmap.from_bytes(document["collected"]) | bitmap.from_indices(part.number for part in chosen)
        self._closed = [batch.index for batch in unpack(document["batches"]) if self._has_all(batch)]

    def _has_all(self, batch: StoredBatch) -> bool:
        return all(self._after >> part.number & 1 for part in batch.parts)

    def update(self, collector: ObjectId) -> UpdateOne:
        """The update that marks them, provided that nobody collected from the block in between."""
        return UpdateOne(
            {"_id": self.block, "collects": self._collects},
            {
                "$set": {"collected": bitmap.to_bytes(self._after, self._after.bit_length())},
                "$inc": {"uncollected": -self.jobs, "collects": 1},
                "$push": {
                    "closed": {"$each": self._closed},
                    "collectors": {"$each": [collector], "$slice": -_COLLECTORS},
                },
            },
        )
