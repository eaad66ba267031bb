"""What a MongoDB store does with the records of administrators, the operation log and dead letters' end."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from typing import Any

from bson import ObjectId
from pymongo import ASCENDING, DESCENDING, IndexModel, ReturnDocument, UpdateOne
from pymongo.errors import DuplicateKeyError

from dts.errors import DuplicateKey, LastAdministrator, LogDamaged
from dts.model import ADMINISTRATOR, LAST_OPERATION, KeptOperation, Operation, Record, Seal, User
from dts.store.abc import Store
from dts.store.contract.records import (
    NO_NUMBER_LEFT,
    TABLES,
    R,
    Where,
    fields_of,
    last_administrator,
    record_from,
    taken,
)
from dts.store.contract.shared import storable
from dts.store.mongo.bodies import Bodies
from dts.store.mongo.connection import MongoConnection, insert_new, translating
from dts.store.mongo.documents import Document
from dts.store.mongo.operations import (
    NUMBERED,
    STRAY,
    behind,
    head_from,
    kept_from,
    mark,
    marks,
    operation_document,
    operation_from,
    texts,
)
from dts.store.mongo.tallies import USER, Tallies

ADMIN_INDEXES: dict[str, list[IndexModel]] = {
    "operations": [IndexModel([("which", ASCENDING), ("_id", ASCENDING)], name="which")],
    "users": [IndexModel([("email", ASCENDING), ("_id", ASCENDING)])],
    "functions": [IndexModel([("namespace", ASCENDING), ("_id", ASCENDING)])],
}

_LEASE = 20_000
"""Milliseconds for which one process may take administrators away; longer than any call of the store may last."""

_MARKED_AT_ONCE = 1000

_KEPT_AT_ONCE = 200  # to tell whether they are as they were takes 10 ms

_STRAYS = 100

_HEAD = {"_id": "head"}


class MongoAdminStore(Store):
    """The part of a MongoDB store that is about administration. Not a store by itself."""

    _connection: MongoConnection
    _bodies: Bodies
    _tallies: Tallies

    # records

    @translating
    async def add_record(self, record: Record) -> None:
        document = _document(record)
        try:
            await self._connection.collection(TABLES[type(record)]).insert_one(document)
        except DuplicateKeyError as error:
            raise DuplicateKey(taken(record)) from error

    @translating
    async def get_record(self, kind: type[R], record_id: str) -> R | None:
        document = await self._connection.collection(TABLES[kind]).find_one({"_id": storable(record_id)})
        return _record(kind, document) if document else None

    @translating
    async def list_records(
        self, kind: type[R], *, where: Where | None = None, limit: int | None = 100, after: str | None = None
    ) -> list[R]:
        if limit == 0:  # which MongoDB takes for no limit
            return []
        query = _query(where or {})
        if after is not None:
            query.setdefault("$and", []).append({"_id": {"$gt": storable(after)}})
        found = self._connection.collection(TABLES[kind]).find(query, sort=[("_id", ASCENDING)], limit=limit or 0)
        return [_record(kind, document) for document in await found.to_list(None)]

    @translating
    async def replace_record(self, record: Record, *, version: int) -> bool:
        key = {"_id": storable(record.id), "version": version}
        collection = self._connection.collection(TABLES[type(record)])
        if isinstance(record, User) and not record.is_administrator and await self._is_administrator(key):
            async with self._taking_administrators_away(key["_id"]):
                return (await collection.replace_one(key, _document(record))).matched_count == 1
        return (await collection.replace_one(key, _document(record))).matched_count == 1

    @translating
    async def delete_record(self, kind: type[Record], record_id: str, *, version: int) -> bool:
        key = {"_id": storable(record_id), "version": version}
        collection = self._connection.collection(TABLES[kind])
        if kind is User and await self._is_administrator(key):
            async with self._taking_administrators_away(key["_id"]):
                return (await collection.delete_one(key)).deleted_count == 1
        return (await collection.delete_one(key)).deleted_count == 1

    async def _is_administrator(self, key: Document) -> bool:
        document = await self._connection.collection("users").find_one(key)
        return document is not None and _record(User, document).is_administrator

    @asynccontextmanager
    async def _taking_administrators_away(self, user_id: object) -> AsyncIterator[None]:
        """Be the only one who does, of all processes, and make sure that somebody else stays an administrator.

        Without transactions the count and the write are two steps: a lock under a lease, by the clock of MongoDB,
        makes them one. A process that dies in between holds the others up for as long as the lease lasts.
        """
        locks = self._connection.collection("locks")
        holder = ObjectId()
        await self._acquire(holder)
        try:
            others = {"_id": {"$ne": user_id}, "roles": ADMINISTRATOR, "disabled": False}
            if await self._connection.collection("users").find_one(others, {"_id": 1}) is None:
                raise LastAdministrator(last_administrator(user_id))
            yield
        finally:
            await locks.delete_one({"_id": "administrators", "holder": holder})

    async def _acquire(self, holder: ObjectId) -> None:
        locks = self._connection.collection("locks")
        free = {"$lt": ["$until", "$$NOW"]}  # so is a lock that there is not yet
        until = {"$add": ["$$NOW", _LEASE]}
        take = {
            "holder": {"$cond": [free, holder, "$holder"]},
            "until": {"$cond": [free, until, "$until"]},
        }
        while True:  # until the time of the whole call is over
            with suppress(DuplicateKeyError):  # two made it at the same time
                lock = await locks.find_one_and_update(
                    {"_id": "administrators"}, [{"$set": take}], upsert=True, return_document=ReturnDocument.AFTER
                )
                if lock is not None and lock["holder"] == holder:
                    return
            await asyncio.sleep(random.uniform(0.005, 0.02))

    @translating
    async def list_seeded(self) -> frozenset[str]:
        return frozenset([document["_id"] async for document in self._connection.collection("seeded").find()])

    @translating
    async def note_seeded(self, names: Iterable[str]) -> None:
        documents: list[Document] = [{"_id": storable(name)} for name in names]
        await insert_new(self._connection.collection("seeded"), documents)

    @translating
    async def set_speeds(self, speeds: Mapping[str, tuple[float, bool]]) -> None:
        updates = [
            UpdateOne({"_id": storable(name)}, {"$set": {"mean_duration": mean, "concurrent": concurrent}})
            for name, (mean, concurrent) in speeds.items()
        ]
        if updates:
            await self._connection.quick("functions").bulk_write(updates, ordered=False)

    @translating
    async def count_unfinished(
        self, *, user: str | None = None, function: str | None = None, namespace: str | None = None
    ) -> int:
        if user is not None and function is None and namespace is None:
            counts = await self._tallies.counts(USER, storable(user))
            return counts["total"] - counts["succeeded"] - counts["failed"] - counts["cancelled"]
        match: Document = {"open": True}
        if user is not None:
            match["user"] = storable(user)
        if function is not None:
            match["function"] = storable(function)
        if namespace is not None:
            name = storable(namespace)
            match["$and"] = [{"function": {"$gte": name + "/", "$lt": name + "0"}}]  # the character after the slash
        ended = {"$add": ["$succeeded", "$failed", "$cancelled"]}
        group = {"_id": None, "jobs": {"$sum": {"$subtract": ["$count", ended]}}}
        found = self._connection.collection("outcomes").aggregate([{"$match": match}, {"$group": group}])
        return sum(document["jobs"] for document in await found.to_list(1))

    # operations

    @translating
    async def append_operation(self, operation: Operation, seal: Seal) -> Operation:
        while True:
            seq, previous = await self._end()
            if seq == LAST_OPERATION:
                raise LogDamaged(NO_NUMBER_LEFT)
            entry = replace(operation, seq=seq + 1, previous=previous)
            entry = replace(entry, hash=seal(entry))
            try:
                await self._connection.collection("operations").insert_one(operation_document(entry))
            except DuplicateKeyError:
                continue  # somebody was faster
            await self._move_head(entry)
            return entry

    async def _end(self) -> tuple[int, str]:
        """The number and the hash of the entry to continue; the head is there then, never more than one behind the log.

        Whoever appended the last entry may have died before they moved the head: it is moved on their behalf.
        """
        seq, digest = await self._read_head()
        last = await self._connection.collection("operations").find_one({"_id": NUMBERED}, sort=[("_id", DESCENDING)])
        if last is None or last["_id"] <= seq:
            return seq, digest
        entry = operation_from(last)
        await self._move_head(entry)
        return entry.seq, entry.hash

    async def _mark_operations(self) -> None:
        """Mark the entries of a log that was begun by an earlier version, which had no marks."""
        operations = self._connection.collection("operations")
        while True:
            found = await operations.find({"which": None}, sort=[("_id", ASCENDING)], limit=_MARKED_AT_ONCE).to_list(
                None
            )
            if not found:
                return
            updates = [UpdateOne({"_id": each["_id"]}, {"$set": {"which": marks(texts(each))}}) for each in found]
            await operations.bulk_write(updates, ordered=False)

    async def _read_head(self) -> tuple[int, str]:
        return head_from(await self._connection.collection("operations_head").find_one(_HEAD))

    async def _move_head(self, entry: Operation) -> None:
        """Note that an entry is the last one, unless the head is further on."""
        heads = self._connection.collection("operations_head")
        try:
            await heads.update_one(behind(entry.seq), {"$set": {"seq": entry.seq, "hash": entry.hash}}, upsert=True)
        except DuplicateKeyError:
            return  # it is further on: the update found none to change, and none may be added

    @translating
    async def list_operations(
        self, *, where: Where | None = None, limit: int = 100, after: int | None = None, newest_first: bool = True
    ) -> list[Operation]:
        if limit == 0:
            return []
        query: Document = _query(where or {})
        if where:
            query["which"] = mark({field: storable(str(value)) for field, value in where.items()})
        query["_id"] = dict(NUMBERED)
        if after is not None:
            query["_id"]["$lt" if newest_first else "$gt"] = after
        order = DESCENDING if newest_first else ASCENDING
        found = self._connection.collection("operations").find(query, sort=[("_id", order)], limit=limit)
        return [operation_from(document) for document in await found.to_list(None)]

    async def kept_operations(self) -> AsyncIterator[KeptOperation]:
        after: Any = 0  # also what is no whole number may be between those of entries
        while documents := await self._kept_after(after):
            after = documents[-1]["_id"]
            for kept in await asyncio.to_thread(lambda found: [kept_from(each) for each in found], documents):
                yield kept
        for document in await self._strays():
            yield kept_from(document)

    @translating
    async def _kept_after(self, after: Any) -> list[Document]:
        query = {"_id": {"$gt": after, "$lte": LAST_OPERATION}}
        operations = self._connection.collection("operations")
        return await operations.find(query, sort=[("_id", ASCENDING)], limit=_KEPT_AT_ONCE).to_list(None)

    @translating
    async def _strays(self) -> list[Document]:
        return await self._connection.collection("operations").find(STRAY, {"_id": 1}, limit=_STRAYS).to_list(None)

    @translating
    async def operations_head(self) -> tuple[int, str]:
        return await self._read_head()

    # dead letters

    @translating
    async def delete_dead_letters(self, letter_ids: Sequence[str]) -> None:
        letters, keys = self._connection.collection("dead_letters"), [storable(each) for each in letter_ids]
        found = letters.find({"_id": {"$in": keys}, "beside": {"$exists": True}}, {"beside": 1, "size": 1})
        beside = await found.to_list(None)
        await letters.delete_many({"_id": {"$in": keys}})
        await self._bodies.drop_of(beside)


def _document(record: Record) -> Document:
    fields = fields_of(record)
    return {"_id": fields.pop("id"), **fields}


def _record(kind: type[R], document: Document) -> R:
    document["id"] = document.pop("_id")
    return record_from(kind, document)


def _query(where: Where) -> Document:
    """A query for documents that match; MongoDB compares with the elements of a list by itself."""
    query: Document = {}
    for field, value in where.items():
        several = value if isinstance(value, tuple) else (value,)
        values: list[Any] = [storable(each) if isinstance(each, str) else each for each in several]
        query["_id" if field == "id" else field] = {"$in": values}
    return query
