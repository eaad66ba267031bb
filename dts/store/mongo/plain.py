"""What a MongoDB store does with documents that parts of the server keep (`dts.model.documents`)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from bson import ObjectId
from pymongo import ASCENDING, DESCENDING, IndexModel, UpdateOne
from pymongo.errors import DuplicateKeyError

from dts.model.documents import Document
from dts.store.abc import Store
from dts.store.contract.documents import data_from_json, data_to_json
from dts.store.contract.shared import storable
from dts.store.mongo.connection import MongoConnection, translating
from dts.store.mongo.documents import Document as Fields

DOCUMENT_INDEXES: dict[str, list[IndexModel]] = {
    "documents": [
        IndexModel([("collection", ASCENDING), ("id", ASCENDING)]),
        IndexModel([("collection", ASCENDING), ("group", ASCENDING), ("id", ASCENDING)]),
        # Neither has the documents that are never due, or never expire: their fields are absent.
        IndexModel(
            [("collection", ASCENDING), ("due", ASCENDING)],
            name="due",
            partialFilterExpression={"due": {"$exists": True}},
        ),
        IndexModel([("expires", ASCENDING)], name="expiring", partialFilterExpression={"expires": {"$exists": True}}),
    ],
}

_NO_BODY = {"body": False}
_SOMETIMES = ("due", "expires")


class MongoDocumentStore(Store):
    """The part of a MongoDB store that is about documents. Not a store by itself."""

    _connection: MongoConnection

    @translating
    async def add_document(self, document: Document) -> bool:
        fields = {"_id": _key(document.collection, document.id), **_identity(document), **_fields(document)}
        try:
            await self._connection.collection("documents").insert_one({**fields, "revision": 1})
        except DuplicateKeyError:
            return False
        return True

    @translating
    async def put_documents(self, documents: Sequence[Document], *, durable: bool = True) -> None:
        if documents:
            collection = self._connection.collection("documents") if durable else self._connection.quick("documents")
            await collection.bulk_write([_put(each) for each in documents])

    @translating
    async def replace_document(self, document: Document) -> bool:
        result = await self._connection.collection("documents").update_one(_at_revision(document), _changes(document))
        return bool(result.matched_count)

    @translating
    async def get_documents(self, collection: str, ids: Iterable[str], *, body: bool = False) -> list[Document]:
        query = {"_id": {"$in": [_key(collection, each) for each in ids]}}
        found = self._connection.committed("documents").find(query, None if body else _NO_BODY, sort=[("_id", 1)])
        return [_from(fields) async for fields in found]

    @translating
    async def list_documents(
        self,
        collection: str,
        *,
        group: str | None = None,
        after: str | None = None,
        limit: int = 1000,
        newest_first: bool = False,
    ) -> list[Document]:
        if limit < 1:
            return []  # MongoDB takes 0 for no limit
        query: Fields = {"collection": collection}
        if group is not None:
            query["group"] = storable(group)
        if after is not None:
            query["id"] = {"$lt" if newest_first else "$gt": storable(after)}
        order = [("id", DESCENDING if newest_first else ASCENDING)]
        found = self._connection.committed("documents").find(query, _NO_BODY, sort=order, limit=limit)
        return [_from(fields) async for fields in found]

    @translating
    async def count_documents(self, collection: str, *, group: str | None = None) -> int:
        query = {"collection": collection} | ({} if group is None else {"group": storable(group)})
        return int(await self._connection.collection("documents").count_documents(query))

    @translating
    async def claim_documents(self, collection: str, *, seconds: float, limit: int) -> list[Document]:
        documents, now = self._connection.collection("documents"), self.now()
        due = {"collection": collection, "due": {"$lte": now}}
        found = documents.find(due, {"_id": True}, sort=[("due", ASCENDING)], limit=max(1, limit))
        ids = [fields["_id"] async for fields in found]
        if not ids or limit < 1:
            return []
        mine = {"_id": {"$in": ids}, "claim": ObjectId()}
        change = {"$set": {"due": now + seconds, "claim": mine["claim"]}, "$inc": {"revision": 1}}
        await documents.update_many({"_id": {"$in": ids}, "due": {"$lte": now}}, change)
        return [_from(fields) async for fields in documents.find(mine, _NO_BODY, sort=[("_id", ASCENDING)])]

    @translating
    async def delete_document(self, document: Document) -> bool:
        result = await self._connection.collection("documents").delete_one(_at_revision(document))
        return bool(result.deleted_count)

    @translating
    async def delete_documents(self, collection: str, ids: Iterable[str]) -> int:
        query = {"_id": {"$in": [_key(collection, each) for each in ids]}}
        return int((await self._connection.collection("documents").delete_many(query)).deleted_count)

    @translating
    async def drop_expired_documents(self, *, limit: int = 1000) -> int:
        documents = self._connection.quick("documents")
        expired = {"expires": {"$lte": self.now()}}
        ids = [fields["_id"] async for fields in documents.find(expired, {"_id": True}, limit=max(1, limit))]
        return int((await documents.delete_many({"_id": {"$in": ids}, **expired})).deleted_count) if ids else 0


def _key(collection: str, document_id: str) -> str:
    return f"{collection}/{storable(document_id)}"


def _identity(document: Document) -> Fields:
    return {"collection": document.collection, "id": storable(document.id)}


def _fields(document: Document) -> Fields:
    fields: Fields = {"group": storable(document.group), "data": data_to_json(document), "body": document.body}
    return fields | {name: time for name in _SOMETIMES if (time := getattr(document, name)) is not None}


def _changes(document: Document) -> Fields:
    absent = {name: "" for name in _SOMETIMES if getattr(document, name) is None}
    return {"$set": _fields(document), "$inc": {"revision": 1}} | ({"$unset": absent} if absent else {})


def _put(document: Document) -> UpdateOne:
    changes = {**_changes(document), "$setOnInsert": _identity(document)}
    return UpdateOne({"_id": _key(document.collection, document.id)}, changes, upsert=True)


def _at_revision(document: Document) -> Fields:
    return {"_id": _key(document.collection, document.id), "revision": document.revision}


def _from(fields: Fields) -> Document:
    return Document(
        collection=fields["collection"],
        id=fields["id"],
        data=data_from_json(fields["data"]),
        group=fields["group"],
        due=fields.get("due"),
        expires=fields.get("expires"),
        body=fields.get("body", b""),
        revision=fields["revision"],
    )
