"""How an outcome's document holds parts: in batches, each what one write added, packed so that MongoDB sees two values.

MongoDB walks an array element by element, and each element field by field, at every update that adds to it: parts of
one job each made an update six times as slow as their batch does. The first value says what the parts are, the second
has their bodies one after the other, so that a question about jobs need not move bodies. A batch is found by its index
in `batches`; `closed` lists the indices of those whose parts are all collected, and the bitmap `collected` has the
numbers of all parts that are.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import bson
from bson import ObjectId

from dts.model import Part, bitmap
from dts.store.mongo.bodies import Beside
from dts.store.mongo.documents import Document


@dataclass(frozen=True, slots=True)
class StoredPart:
    """A part as its outcome's document has it. `body` is empty if the body is beside, or was not read."""

    number: int
    jobs: int
    count: int
    content_encoding: str
    size: int
    body: bytes
    beside: Beside | None


@dataclass(frozen=True, slots=True)
class StoredBatch:
    """Parts that one write added; `index` is the batch's in the outcome."""

    index: int
    parts: tuple[StoredPart, ...]


def pack(parts: Sequence[tuple[Part, Beside | None]], by: ObjectId) -> Document:
    """A batch of parts and where their bodies are, if beside. The write that adds it calls itself `by`."""
    about = []
    for part, beside in parts:
        offset, jobs = bitmap.to_window(part.jobs)
        about.append([offset, jobs, part.content_encoding, len(part.body), beside and beside.reference])
    return {
        "by": by,
        "first": parts[0][0].number,
        "about": bson.encode({"parts": about}),
        "bodies": b"".join(part.body for part, beside in parts if beside is None),
    }


def unpack(documents: Iterable[Document]) -> Iterator[StoredBatch]:
    """The batches that `open_batches` or `ALL_BATCHES` projected, with the bodies only if those were asked for."""
    for document in documents:
        bodies = document.get("bodies", b"")
        yield StoredBatch(document.get("index", 0), tuple(_unpack_parts(document, bodies)))


def _unpack_parts(document: Document, bodies: bytes) -> Iterator[StoredPart]:
    start = 0
    about = bson.decode(document["about"])["parts"]
    for number, (offset, window, content_encoding, size, reference) in enumerate(about, document["first"]):
        jobs = bitmap.from_window(offset, window)
        if reference is not None:
            beside = Beside(reference, size)
            yield StoredPart(number, jobs, jobs.bit_count(), content_encoding, size, b"", beside)
        else:
            body = bodies[start : start + size]
            start += size
            yield StoredPart(number, jobs, jobs.bit_count(), content_encoding, size, body, None)


def open_batches(*, bodies: bool) -> Document:
    """The projection of the batches of an outcome that are not all collected."""
    fields = ["first", "about", "bodies"] if bodies else ["first", "about"]
    indices = {"$setDifference": [{"$range": [0, {"$size": "$batches"}]}, "$closed"]}
    batch = {"index": "$$index"} | {field: f"$$batch.{field}" for field in fields}
    at_index = {"$let": {"vars": {"batch": {"$arrayElemAt": ["$batches", "$$index"]}}, "in": batch}}
    return {"$map": {"input": indices, "as": "index", "in": at_index}}


ALL_BATCHES = "$batches"
"""The projection of all batches of an outcome, with bodies."""
