"""What a MongoDB store does with results on their way to clients: pages of parts, receipts, statistics."""

from __future__ import annotations

from collections.abc import Mapping

from bson import ObjectId
from pymongo import UpdateOne

from dts.model import Part, Statistics
from dts.store.mongo_bodies import Bodies, size_of
from dts.store.mongo_connection import MongoConnection, translating
from dts.store.mongo_documents import Document, part_from, part_jobs
from dts.store.shared import Page, job_ids, storable

_PENDING_PARTS = {"$map": {"input": "$pending.n", "as": "number", "in": {"$arrayElemAt": ["$parts", "$$number"]}}}
"""The parts of an outcome that are not collected: part n is at index n."""

_WITH_PENDING_PARTS = {"run": 1, "first": 1, "pending": 1, "parts": _PENDING_PARTS}
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
        run = storable(run_id)
        numbers = await self._blocks_with(run, max_jobs)
        if not numbers:
            return []
        page = Page(max_jobs)
        parts: list[Part] = []
        found = self._connection.collection("outcomes").find(
            {"run": run, "number": {"$in": numbers}}, _WITH_PENDING_PARTS, sort=[("number", 1)]
        )
        async for document in found:
            for pending, part in zip(document["pending"], document["parts"], strict=True):
                if not page.take(pending["jobs"], size_of(part)):
                    await found.close()
                    return parts
                parts.append(part_from(document["_id"], part, await self._bodies.of(part)))
        return parts

    async def _blocks_with(self, run: str, jobs: int) -> list[int]:
        """The numbers of so many blocks of a run that they have `jobs` uncollected jobs, or all there are."""
        found = self._connection.collection("outcomes").find(
            {"run": run, "uncollected": {"$gt": 0}},
            {"_id": 0, "number": 1, "uncollected": 1},
            sort=[("number", 1)],
            batch_size=_FEW,
        )
        numbers: list[int] = []
        while batch := await found.to_list(_FEW):
            for document in batch:
                numbers.append(document["number"])
                jobs -= document["uncollected"]
                if jobs <= 0:
                    await found.close()
                    return numbers
        return numbers

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
        ids: list[str] = []
        found = self._connection.collection("outcomes").find(
            {"user": storable(user), "uncollected": {"$gt": 0}},
            _WITH_PENDING_PARTS,
            sort=[("run", 1), ("number", 1)],
            batch_size=_FEW,
        )
        async for document in found:
            ids.extend(job_ids(document["run"], document["first"], map(part_jobs, document["parts"])))
            if len(ids) >= limit:
                await found.close()
                break
        return ids[:limit]


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
