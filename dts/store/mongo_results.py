"""What a MongoDB store does with results on their way to clients: pages of parts, receipts, statistics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from bson import ObjectId
from pymongo import UpdateOne

from dts.model import Part, Statistics
from dts.store.mongo_bodies import Bodies, size_of
from dts.store.mongo_connection import MongoConnection, translating
from dts.store.mongo_documents import Document, part_from, part_jobs
from dts.store.shared import Page, job_ids, storable

_PART = {"$arrayElemAt": ["$parts", "$$number"]}  # part n is at index n
_JOBS = {"$let": {"vars": {"part": _PART}, "in": {"offset": "$$part.offset", "jobs": "$$part.jobs"}}}
_FEW = 64  # outcomes in a batch of a look for enough jobs
_COLLECTORS = 32  # last collects that an outcome names; as many would have to come in the ms between write and look


class Results:
    """Parts that are not collected yet, and how many jobs are in which state."""

    def __init__(self, connection: MongoConnection, bodies: Bodies) -> None:
        self._connection = connection
        self._bodies = bodies

    @translating
    async def uncollected(self, run_id: str, max_jobs: int) -> list[Part]:
        """A page of a run's parts that are not collected."""
        enough = await self._with_uncollected({"run": storable(run_id)}, ["number"], max_jobs)
        if not enough:
            return []
        page = Page(max_jobs)
        parts: list[Part] = []
        found = self._connection.collection("outcomes").find(
            {"_id": {"$in": enough}}, {"pending": 1, "parts": _for_pending_parts(_PART)}, sort=[("number", 1)]
        )
        async for document in found:
            for pending, part in zip(document["pending"], document["parts"], strict=True):
                if not page.take(pending["jobs"], size_of(part)):
                    await found.close()
                    return parts
                parts.append(part_from(document["_id"], part, await self._bodies.of(part)))
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
                {"number": 1, "pending": 1, "collects": 1},
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
        accepted = {"$cond": ["$published", 0, {"$max": [0, {"$subtract": ["$count", ended]}]}]}
        states = {"total": "$count", "accepted": accepted, "running": "$at_work"} | {
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
            {"run": 1, "first": 1, "parts": _for_pending_parts(_JOBS)},
            sort=[(field, 1) for field in order],
        )
        ids: list[str] = []
        async for document in found:
            ids.extend(job_ids(document["run"], document["first"], map(part_jobs, document["parts"])))
        return ids[:limit]


def _for_pending_parts(expression: Document) -> Document:
    """The projection that has `expression` for each part of an outcome that is not collected."""
    return {"$map": {"input": "$pending.n", "as": "number", "in": expression}}


class _Mark:
    """Parts of one block that are about to be marked as collected, as far as they are not yet."""

    def __init__(self, document: Document, parts: set[int]) -> None:
        chosen = [pending for pending in document["pending"] if pending["n"] in parts]
        self.block: str = document["_id"]
        self.number: int = document["number"]
        self.jobs: int = sum(pending["jobs"] for pending in chosen)
        self._parts = [pending["n"] for pending in chosen]
        self._collects: int = document["collects"]

    def update(self, collector: ObjectId) -> UpdateOne:
        """The update that marks them, provided that nobody collected from the block in between."""
        return UpdateOne(
            {"_id": self.block, "collects": self._collects},
            {
                "$pull": {"pending": {"n": {"$in": self._parts}}},
                "$inc": {"uncollected": -self.jobs, "collects": 1},
                "$push": {"collectors": {"$each": [collector], "$slice": -_COLLECTORS}},
            },
        )
