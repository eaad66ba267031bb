"""Bodies that would make their document too large: in documents of their own, by reference."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple, Self

from bson import ObjectId

from dts.store.mongo.connection import MongoConnection
from dts.store.mongo.documents import Document

MAX_INLINE = 8 * 1024 * 1024
"""Bytes of a body in the document it belongs to, at most: half of what MongoDB allows a document."""

_CHUNK = 15 * 1024 * 1024  # bytes; a document may have 16 MiB in all
_AT_ONCE = 3  # chunks in one insert: 48 MB is what MongoDB takes in a message


class Beside(NamedTuple):
    """Where a body is."""

    reference: ObjectId
    size: int

    @classmethod
    def of(cls, document: Document) -> Self:
        """Where the body of a document is that is not in it."""
        return cls(document["beside"], document["size"])

    def as_document(self) -> Document:
        """What stands in place of the body."""
        return {"beside": self.reference, "size": self.size}

    @property
    def chunks(self) -> list[str]:
        """The ids of the documents that have it, in order."""
        return [f"{self.reference}.{number}" for number in range(max(1, -(-self.size // _CHUNK)))]


class Bodies:
    """The collection of bodies that are beside."""

    def __init__(self, connection: MongoConnection) -> None:
        self._connection = connection

    async def put(self, body: bytes) -> Beside:
        """Keep a body, durably."""
        beside = Beside(ObjectId(), len(body))
        documents = [
            {"_id": chunk, "body": body[number * _CHUNK : (number + 1) * _CHUNK]}
            for number, chunk in enumerate(beside.chunks)
        ]
        collection = self._connection.collection("bodies")
        for start in range(0, len(documents), _AT_ONCE):
            await collection.insert_many(documents[start : start + _AT_ONCE])
        return beside

    async def place(self, body: bytes, max_inline: int = MAX_INLINE) -> Document:
        """What a document has to say of its body: the body itself, or where it is put now."""
        if len(body) <= max_inline:
            return {"body": body}
        return (await self.put(body)).as_document()

    async def of(self, document: Document) -> bytes:
        """The body of a document.

        Raises:
            KeyError: it is nowhere.
        """
        if "beside" not in document:
            body: bytes = document["body"]
            return body
        return await self.get(Beside.of(document))

    async def get(self, beside: Beside) -> bytes:
        """A body that is beside.

        Raises:
            KeyError: it is nowhere.
        """
        found: Mapping[str, bytes] = {
            chunk["_id"]: chunk["body"]
            async for chunk in self._connection.collection("bodies").find({"_id": {"$in": beside.chunks}})
        }
        return b"".join(found[chunk] for chunk in beside.chunks)

    async def drop_of(self, documents: Iterable[Document]) -> None:
        """Remove the bodies that are beside documents which were not stored."""
        await self.drop(Beside.of(document) for document in documents if "beside" in document)

    async def drop(self, besides: Iterable[Beside]) -> None:
        """Remove bodies that nothing refers to."""
        chunks = [chunk for beside in besides for chunk in beside.chunks]
        if chunks:
            await self._connection.quick("bodies").delete_many({"_id": {"$in": chunks}})
