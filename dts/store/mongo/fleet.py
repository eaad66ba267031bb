"""What a MongoDB store does with heartbeats and log entries."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

import msgspec
from pymongo import ASCENDING, DESCENDING, IndexModel, UpdateOne
from pymongo.errors import BulkWriteError

from dts.model import LogEntry, LogFilter, WorkerState
from dts.store.abc import Store
from dts.store.contract.shared import log_conditions, storable, storable_entry
from dts.store.mongo.connection import DUPLICATE_KEY, MongoConnection, insert_new, translating
from dts.store.mongo.documents import Document

FLEET_INDEXES: dict[str, list[IndexModel]] = {
    "heartbeats": [IndexModel([("time", ASCENDING)])],
    "logs": [
        IndexModel([("job", ASCENDING), ("_id", ASCENDING)]),
        IndexModel([("level", ASCENDING), ("_id", ASCENDING)]),
        IndexModel([("time", ASCENDING)]),
    ],
}

_SIGNS = {"=": "$eq", "<": "$lt", ">=": "$gte"}


class MongoFleetStore(Store):
    """The part of a MongoDB store that is about the fleet. Not a store by itself."""

    _connection: MongoConnection

    @translating
    async def save_heartbeats(self, states: Sequence[WorkerState]) -> None:
        if states:
            try:
                await self._connection.quick("heartbeats").bulk_write([_save(each) for each in states], ordered=False)
            except BulkWriteError as error:
                # An upsert finds a later state there, and so wants to insert the worker a second time.
                if any(failed["code"] != DUPLICATE_KEY for failed in error.details["writeErrors"]):
                    raise

    @translating
    async def list_heartbeats(self, *, since: float = 0.0) -> list[WorkerState]:
        order = [("host", ASCENDING), ("_id", ASCENDING)]
        found = self._connection.collection("heartbeats").find({"time": {"$gt": since}}, sort=order)
        return [msgspec.json.decode(document["data"], type=WorkerState) async for document in found]

    @translating
    async def drop_heartbeats(self, before: float) -> int:
        deleted = await self._connection.quick("heartbeats").delete_many({"time": {"$lt": before}})
        return int(deleted.deleted_count)

    @translating
    async def add_logs(self, entries: Sequence[LogEntry]) -> None:
        documents: list[Document] = [asdict(storable_entry(entry)) for entry in entries]
        for document in documents:
            document["_id"] = document.pop("id")
        await insert_new(self._connection.quick("logs"), documents)

    @translating
    async def list_logs(
        self, which: LogFilter | None = None, *, limit: int = 100, after: str | None = None
    ) -> list[LogEntry]:
        if limit == 0:  # which MongoDB takes for no limit
            return []
        query: Document = {}
        for field, sign, value in log_conditions(which, after):
            query.setdefault("_id" if field == "id" else field, {})[_SIGNS[sign]] = value
        found = self._connection.collection("logs").find(query, sort=[("_id", DESCENDING)], limit=limit)
        return [LogEntry(id=document.pop("_id"), **document) async for document in found]

    @translating
    async def prune_logs(self, *, before: float, keep: int) -> int:
        logs = self._connection.quick("logs")
        dropped = int((await logs.delete_many({"time": {"$lt": before}})).deleted_count)
        beyond = await logs.find({}, {"_id": 1}, sort=[("_id", DESCENDING)], skip=keep, limit=1).to_list(1)
        if beyond:
            dropped += int((await logs.delete_many({"_id": {"$lte": beyond[0]["_id"]}})).deleted_count)
        return dropped


def _save(state: WorkerState) -> UpdateOne:
    fields = {"host": storable(state.host), "time": state.time, "data": msgspec.json.encode(state)}
    return UpdateOne({"_id": storable(state.worker), "time": {"$lt": state.time}}, {"$set": fields}, upsert=True)
