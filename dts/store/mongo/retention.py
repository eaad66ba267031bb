"""What a MongoDB store does with runs that are kept for a time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pymongo import ASCENDING, DESCENDING, IndexModel, ReplaceOne

from dts.model import Run
from dts.store.abc import Store
from dts.store.contract.retention import LETTERS_AT_ONCE, RunNote
from dts.store.contract.shared import storable
from dts.store.mongo.bodies import Bodies
from dts.store.mongo.connection import MongoConnection, translating
from dts.store.mongo.documents import Document, run_from
from dts.store.mongo.parts import unpack
from dts.store.mongo.tallies import Tallies


def _index(*fields: str, **options: Any) -> IndexModel:
    return IndexModel([(field, ASCENDING) for field in fields], **options)


RETENTION_INDEXES: dict[str, list[IndexModel]] = {
    "run_notes": [
        _index("subject", "run", name="by_subject", unique=True),
        _index("subject", "finished", "run", name="by_time"),
        _index("run", name="by_run"),
    ],
    "dead_letters": [_index("run", name="by_run"), _index("died", name="by_time")],
}
_WHERE_BODY = {"beside": 1, "size": 1}
RUNS_BY_FUNCTION = _index("function", "_id", name="by_function")


class MongoRetentionStore(Store):
    """The part of a MongoDB store that is about retention. Not a store by itself."""

    _connection: MongoConnection
    _bodies: Bodies
    _tallies: Tallies

    @translating
    async def oldest_runs(
        self, *, user: str | None = None, function: str | None = None, after: str, before: str, limit: int
    ) -> list[Run]:
        query: Document = {"_id": {"$gt": after, "$lt": before}}
        query |= {"user": storable(user)} if user is not None else {"function": storable(function or "")}
        found = self._connection.collection("runs").find(
            query, sort=[("_id", ASCENDING)], limit=limit, hint="user_1__id_1" if user is not None else "by_function"
        )
        return [run_from(document) async for document in found]

    @translating
    async def functions_of_runs(self, namespace: str) -> list[str]:
        # What follows the slash comes before what follows the next character.
        of_namespace = {"function": {"$gt": f"{storable(namespace)}/", "$lt": f"{storable(namespace)}0"}}
        return sorted(await self._connection.collection("runs").distinct("function", of_namespace))

    @translating
    async def write_notes(self, notes: Sequence[RunNote]) -> None:
        updates = [
            ReplaceOne({"subject": document["subject"], "run": document["run"]}, document, upsert=True)
            for document in map(_note_document, notes)
        ]
        if updates:
            await self._connection.quick("run_notes").bulk_write(updates, ordered=False)

    @translating
    async def last_noted(self, subject: str) -> str:
        last = await self._connection.collection("run_notes").find_one(
            {"subject": storable(subject)}, {"run": 1}, sort=[("run", DESCENDING)], hint="by_subject"
        )
        return last["run"] if last else ""

    @translating
    async def unfinished_notes(self, subject: str, *, limit: int, after: str = "") -> list[RunNote]:
        query = {"subject": storable(subject), "finished": None, "run": {"$gt": after}}
        return await self._notes(query, [("run", ASCENDING)], limit)

    @translating
    async def finished_notes(
        self, subject: str, *, until: float, limit: int, after: tuple[float, str] = (0.0, "")
    ) -> list[RunNote]:
        query = {
            "subject": storable(subject),
            "finished": {"$gte": after[0], "$lte": until},
            "$or": [{"finished": {"$gt": after[0]}}, {"run": {"$gt": after[1]}}],
        }
        return await self._notes(query, [("finished", ASCENDING), ("run", ASCENDING)], limit)

    async def _notes(self, query: Document, order: list[tuple[str, int]], limit: int) -> list[RunNote]:
        found = self._connection.collection("run_notes").find(
            query, {"_id": 0}, sort=order, limit=limit, hint="by_time"
        )
        return [RunNote(**document) async for document in found]

    @translating
    async def delete_run(self, run_id: str, *, blocks: int) -> bool:
        run = storable(run_id)
        letters = self._connection.collection("dead_letters").find({"run": run}, _WHERE_BODY, limit=LETTERS_AT_ONCE)
        if await self._delete_letters(await letters.to_list(None)) == LETTERS_AT_ONCE:
            return False
        of_run = {"_id": {"$gte": f"{run}-", "$lt": f"{run}."}}  # the ids of its blocks, which have an index in both
        for name, fields in (("outcomes", {"user": 1, "batches": 1}), ("blocks", {"beside": 1, "size": 1})):
            # Quick, since the run goes last and waits for the disk: what went before has gone for good by then.
            collection = self._connection.quick(name)
            found = await collection.find(of_run, fields, sort=[("_id", ASCENDING)], limit=blocks).to_list(blocks)
            if name == "outcomes" and found:
                await self._tallies.let_go(found[0]["user"], [document["_id"] for document in found])
            # What is beside goes first: cut off here, the next call still finds where it is.
            await self._bodies.drop_of(found)
            batches = unpack(batch for document in found for batch in document.get("batches", ()))
            await self._bodies.drop(part.beside for batch in batches for part in batch.parts if part.beside)
            await collection.delete_many({"_id": {"$in": [document["_id"] for document in found]}})
            if len(found) == blocks:
                return False
        await self._connection.collection("runs").delete_one({"_id": run})
        await self._tallies.forget_run(run)
        await self._connection.quick("run_notes").delete_many({"run": run})
        return True

    @translating
    async def forget_dead_letters(self, *, before: float, keep: int, limit: int) -> int:
        letters = self._connection.collection("dead_letters")
        count = await letters.count_documents({}, hint="_id_")
        oldest = letters.find({}, {**_WHERE_BODY, "died": 1}, sort=[("died", ASCENDING)], limit=limit, hint="by_time")
        found = enumerate(await oldest.to_list(None))
        return await self._delete_letters(
            [each for place, each in found if each["died"] < before or place < count - keep]
        )

    async def _delete_letters(self, letters: Sequence[Document]) -> int:
        if letters:
            keys = {"_id": {"$in": [letter["_id"] for letter in letters]}}
            await self._connection.quick("dead_letters").delete_many(keys)
            await self._bodies.drop_of(letters)  # last: a list must not find a letter without its body
        return len(letters)


def _note_document(note: RunNote) -> Document:
    return {
        "subject": storable(note.subject),
        "run": storable(note.run),
        "finished": note.finished,
        "jobs": note.jobs,
    }
