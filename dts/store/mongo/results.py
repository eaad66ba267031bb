"""What a MongoDB store does with outcomes that are asked for: parts on their way to clients, receipts, statistics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from bson import ObjectId
from pymongo import UpdateOne

from dts.model import MAX_BLOCK_SIZE, Outcome, Part, bitmap
from dts.store.contract.results import SMALL_BLOCK, BlockRecord, JobPlace
from dts.store.contract.shared import Page, job_ids, jobs_in_block, storable, take_jobs
from dts.store.mongo.bodies import Bodies
from dts.store.mongo.connection import MongoConnection, translating
from dts.store.mongo.documents import GUARDED, Document, block_from, outcome_from
from dts.store.mongo.parts import ALL_BATCHES, StoredBatch, StoredPart, open_batches, unpack
from dts.store.mongo.waiting import WAITS, lease_from, slice_from

_FEW = 64  # outcomes in a batch of a look for enough jobs
_COLLECTORS = 32  # last collects that an outcome names; as many would have to come in the ms between write and look


_ALL: list[Document] = [
    {
        "$project": {
            **GUARDED,
            "published": 1,
            "batches": {"$cond": [{"$lte": ["$count", SMALL_BLOCK]}, ALL_BATCHES, []]},
        }
    },
    {"$lookup": {"from": "blocks", "localField": "_id", "foreignField": "_id", "as": "block"}},
    {
        "$lookup": {
            "from": "delayed",
            "localField": "_id",
            "foreignField": "block",
            "pipeline": [{"$match": WAITS}],
            "as": "slices",
        }
    },
    {"$lookup": {"from": "leases", "localField": "_id", "foreignField": "block", "as": "leases"}},
]


class Results:
    """Outcomes, their parts, and how many jobs are in which state."""

    def __init__(self, connection: MongoConnection, bodies: Bodies) -> None:
        self._connection = connection
        self._bodies = bodies

    @translating
    async def outcome(self, block_id: str) -> Outcome | None:
        """What became of a block so far."""
        document = await self._connection.committed("outcomes").find_one({"_id": storable(block_id)}, GUARDED)
        return outcome_from(document) if document else None

    @translating
    async def inspect(self, block_id: str) -> BlockRecord | None:
        """All that is known of a block."""
        found = self._connection.committed("outcomes").aggregate([{"$match": {"_id": storable(block_id)}}, *_ALL])
        for document in await found.to_list(1):
            for block in document["block"]:
                parts: list[Part] | None = None
                if block["count"] <= SMALL_BLOCK:
                    parts = await self._parts_of(block_id, document["batches"])
                return BlockRecord(
                    block_from(block, await self._bodies.of(block), document),
                    outcome_from(document),
                    parts,
                    [slice_from(each) for each in document["slices"]],
                    [lease_from(each) for each in document["leases"]],
                )
        return None

    @translating
    async def parts(self, block_id: str) -> list[Part]:
        """All parts of a block by number."""
        document = await self._connection.committed("outcomes").find_one(
            {"_id": storable(block_id)}, {"batches": ALL_BATCHES}
        )
        return await self._parts_of(block_id, document["batches"]) if document else []

    async def _parts_of(self, block_id: str, batches: Sequence[Document]) -> list[Part]:
        return [await self._whole(block_id, part) for batch in unpack(batches) for part in batch.parts]

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
        found = self._connection.committed("outcomes").find(
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
        found = self._connection.committed("outcomes").find(
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
    async def uncollected_counts(self, run_ids: Sequence[str]) -> dict[str, int]:
        """How many ended jobs of runs are not collected; from an index."""
        of_runs = {"run": {"$in": [storable(run_id) for run_id in run_ids]}, "uncollected": {"$gt": 0}}
        sums = {"_id": "$run", "jobs": {"$sum": "$uncollected"}}
        found = self._connection.committed("outcomes").aggregate(
            [{"$match": of_runs}, {"$group": sums}], hint="uncollected_by_run"
        )
        return {document["_id"]: document["jobs"] async for document in found}

    @translating
    async def collect(self, run_id: str, receipts: Mapping[int, set[int]]) -> int:
        """Mark parts as collected, given by block number; how many jobs they hold."""
        run = storable(run_id)
        collected = 0
        left = dict(receipts)
        while left:
            found = await self._to_mark({"run": run, "number": {"$in": list(left)}})
            marks = [mark for each in found if (mark := _mark_of_parts(each, left[each["number"]])).jobs]
            done = await self._write(marks)
            collected += sum(mark.jobs for mark in marks if mark.block in done)
            left = {mark.number: left[mark.number] for mark in marks if mark.block not in done}
        return collected

    @translating
    async def collect_jobs(self, user: str, numbers: Mapping[str, Sequence[int]]) -> int:
        """Mark jobs of a user as collected, given by run; how many."""
        of_user = {"user": storable(user), "run": {"$in": list(numbers)}, "uncollected": {"$gt": 0}}
        found = self._connection.collection("outcomes").find(of_user, {"run": 1, "first": 1, "count": 1})
        asked: dict[str, int] = {}
        async for outcome in found:
            if jobs := jobs_in_block(numbers[outcome["run"]], outcome["first"], outcome["count"]):
                asked[outcome["_id"]] = jobs
        collected = 0
        while asked:
            documents = await self._to_mark({"_id": {"$in": list(asked)}})
            marks = [mark for each in documents if (mark := _mark_of_jobs(each, asked[each["_id"]])).jobs]
            done = await self._write(marks)
            collected += sum(mark.jobs for mark in marks if mark.block in done)
            asked = {mark.block: asked[mark.block] for mark in marks if mark.block not in done}
        return collected

    async def _to_mark(self, which: Document) -> list[Document]:
        """What `_Mark` needs to know of outcomes that have something uncollected."""
        fields = _with_open_batches(bodies=False) | {"number": 1, "collects": 1}
        found = self._connection.collection("outcomes").find({**which, "uncollected": {"$gt": 0}}, fields)
        documents: list[Document] = await found.to_list(None)
        return documents

    async def _write(self, marks: Sequence[_Mark]) -> set[str]:
        """Write marks; the blocks of those that nobody came before. The others are to be looked at anew."""
        if not marks:
            return set()
        outcomes, collector = self._connection.collection("outcomes"), ObjectId()
        result = await outcomes.bulk_write([mark.update(collector) for mark in marks], ordered=False)
        done = {mark.block for mark in marks}
        if result.matched_count < len(marks):
            written = outcomes.find({"_id": {"$in": list(done)}, "collectors": collector}, {"_id": 1})
            done = {document["_id"] async for document in written}
        return done

    @translating
    async def retrievables(self, user: str, limit: int, after: JobPlace) -> list[str]:
        """Ids of a user's jobs that have ended and are not collected."""
        order = ["run", "number"]
        of_user: Document = {"user": storable(user)}
        places: list[Document] = [{"run": after.run, "number": {"$gte": after.block}}, {"run": {"$gt": after.run}}]
        enough: list[str] = []
        most = limit + MAX_BLOCK_SIZE if after.run else limit  # those in the block of the job may come before it
        for place in places if after.run else [{}]:
            enough += await self._with_uncollected({**of_user, **place}, order, most) if len(enough) < most else []
        found = self._connection.committed("outcomes").find(
            {"_id": {"$in": enough}},
            _with_open_batches(bodies=False) | {"run": 1, "first": 1},
            sort=[(field, 1) for field in order],
        )
        ids: list[str] = []
        async for document in found:
            left = ~_taken(document)
            pending = (part.jobs & left for part in _uncollected(document))
            start = after.number + 1 if document["run"] == after.run else 0
            ids.extend(job_ids(document["run"], document["first"], pending, start))
            if len(ids) >= limit:
                await found.close()
                break
        return ids[:limit]


def _with_open_batches(*, bodies: bool) -> Document:
    """The projection of what tells which parts of an outcome are not collected."""
    return {"collected": 1, "taken": 1, "batches": open_batches(bodies=bodies)}


def _taken(document: Document) -> int:
    """The bitmap of an outcome's jobs that were collected one by one."""
    return bitmap.from_bytes(document.get("taken", b""))


def _uncollected(document: Document) -> list[StoredPart]:
    """The parts that are not collected of an outcome that was read with its open batches."""
    collected = bitmap.from_bytes(document["collected"])
    parts = (part for batch in unpack(document["batches"]) for part in batch.parts)
    return sorted((part for part in parts if not collected >> part.number & 1), key=lambda part: part.number)


class _Mark:
    """Parts, or single jobs, of one block that are about to be marked as collected: `jobs` is how many that are."""

    def __init__(self, document: Document, parts: Sequence[int], jobs: int, taken: int) -> None:
        self.block: str = document["_id"]
        self.number: int = document["number"]
        self.jobs = jobs
        self._collects: int = document["collects"]
        self._after = bitmap.from_bytes(document["collected"]) | bitmap.from_indices(parts)
        self._taken = taken
        self._closed = [batch.index for batch in unpack(document["batches"]) if self._has_all(batch)]

    def _has_all(self, batch: StoredBatch) -> bool:
        return all(self._after >> part.number & 1 for part in batch.parts)

    def update(self, collector: ObjectId) -> UpdateOne:
        """The update that marks them, provided that nobody collected from the block in between."""
        changes = {"collected": bitmap.to_bytes(self._after, self._after.bit_length())}
        if self._taken:
            changes["taken"] = bitmap.to_bytes(self._taken, self._taken.bit_length())
        return UpdateOne(
            {"_id": self.block, "collects": self._collects},
            {
                "$set": changes,
                "$inc": {"uncollected": -self.jobs, "collects": 1},
                "$push": {
                    "closed": {"$each": self._closed},
                    "collectors": {"$each": [collector], "$slice": -_COLLECTORS},
                },
            },
        )


def _mark_of_parts(document: Document, numbers: set[int]) -> _Mark:
    """The mark of those parts that have one of the numbers and are not collected."""
    taken = _taken(document)
    chosen = [part for part in _uncollected(document) if part.number in numbers]
    jobs = sum((part.jobs & ~taken).bit_count() for part in chosen)
    return _Mark(document, [part.number for part in chosen], jobs, taken)


def _mark_of_jobs(document: Document, asked: int) -> _Mark:
    """The mark of those jobs that have ended and are not collected, and of the parts that have no others."""
    taken = _taken(document)
    fresh, complete = take_jobs(asked, taken, {part.number: part.jobs for part in _uncollected(document)})
    return _Mark(document, complete, fresh.bit_count(), taken | fresh)
