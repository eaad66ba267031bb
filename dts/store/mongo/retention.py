"""What a MongoDB store does with runs that are kept for a time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pymongo import ASCENDING, DESCENDING, IndexModel

from dts.model import Run, RunState
from dts.store.contract.retention import LETTERS_AT_ONCE
from dts.store.contract.shared import storable
from dts.store.mongo.bodies import Bodies
from dts.store.mongo.connection import translating
from dts.store.mongo.documents import Document
from dts.store.mongo.finishing import MongoFinishingStore
from dts.store.mongo.parts import unpack


def _index(*fields: str, **options: Any) -> IndexModel:
    return IndexModel([(field, ASCENDING) for field in fields], **options)


RETENTION_INDEXES: dict[str, list[IndexModel]] = {
    "dead_letters": [_index("run", name="by_run"), _index("died", name="by_time")],
}
_OPEN = {"state": RunState.OPEN.value}
_WHERE_BODY = {"beside": 1, "size": 1}


class MongoRetentionStore(MongoFinishingStore):
    """The part of a MongoDB store that is about retention. Not a store by itself."""

    _bodies: Bodies

    @translating
    async def functions_of_runs(self, namespace: str) -> list[str]:
        # What follows the slash comes before what follows the next character.
        of_namespace = {"function": {"$gt": f"{storable(namespace)}/", "$lt": f"{storable(namespace)}0"}}
        runs = self._connection.collection("runs")
        finished = await runs.distinct("function", {**of_namespace, "finished": {"$gt": 0}})
        return sorted({*finished, *await runs.distinct("function", {**of_namespace, **_OPEN})})

    async def expired_runs(
        self,
        *,
        user: str | None = None,
        function: str | None = None,
        before: float,
        limit: int,
        after: tuple[float, str] = (0.0, ""),
    ) -> list[Run]:
        kind, name = _owner(user, function)
        query = {kind: name, "$and": [{"finished": {"$lt": before}}]}
        return await self._finished_runs(query, after, limit, f"finished_of_{kind}")

    @translating
    async def idle_runs(
        self, *, user: str | None = None, function: str | None = None, before: float, limit: int
    ) -> list[str]:
        kind, name = _owner(user, function)
        found = self._connection.collection("runs").find(
            {kind: name, **_OPEN, "created": {"$lt": before}},
            {"_id": 1},
            sort=[("_id", ASCENDING)],
            hint=f"open_of_{kind}",
        )
        idle: list[str] = []
        async for run in found:
            if await self._is_idle(run["_id"], before):
                idle.append(run["_id"])
            if len(idle) == limit:
                break
        return idle

    async def _is_idle(self, run: str, before: float) -> bool:
        outcomes = self._connection.collection("outcomes")
        if await outcomes.find_one({"run": run, "open": True}, {"_id": 1}, hint="open_of_run") is not None:
            return False
        last = await outcomes.find_one({"run": run}, {"created": 1}, sort=[("number", DESCENDING)], hint="of_run")
        return last is None or last["created"] < before

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
                await self._tallies.take_out(found[0]["user"], [document["_id"] for document in found])
            # What is beside goes first: cut off here, the next call still finds where it is.
            await self._bodies.drop_of(found)
            batches = unpack(batch for document in found for batch in document.get("batches", ()))
            await self._bodies.drop(part.beside for batch in batches for part in batch.parts if part.beside)
            await collection.delete_many({"_id": {"$in": [document["_id"] for document in found]}})
            if len(found) == blocks:
                return False
        await self._connection.collection("runs").delete_one({"_id": run})
        await self._tallies.forget_run(run)
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


def _owner(user: str | None, function: str | None) -> tuple[str, str]:
    """Whose runs are meant: the name of the field, and what is in it."""
    return ("user", storable(user)) if user is not None else ("function", storable(function or ""))
