"""Entries of the operation log as documents of MongoDB: what they must be, and what somebody may have made of them."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import asdict
from itertools import combinations
from types import NoneType
from typing import Any

from dts.model import LAST_OPERATION, KeptOperation, Operation
from dts.store.contract.records import NO_ENTRY, OPERATION_FILTERS, ops_from_text, ops_to_text
from dts.store.contract.shared import storable
from dts.store.mongo.documents import Document

_WHOLE = {"$type": ["int", "long"]}

NUMBERED: Document = {**_WHOLE, "$gte": 1, "$lte": LAST_OPERATION}
"""What the `_id` of an entry must be. Whatever else is in the collection is not listed, and not continued."""

_NO_NUMBERS = [
    "string",
    "object",
    "binData",
    "undefined",
    "objectId",
    "bool",
    "date",
    "null",
    "dbPointer",
    "javascript",
    "symbol",
    "timestamp",
    "minKey",
    "maxKey",
]

STRAY: Document = {
    "$or": [
        {"_id": {"$lte": 0}},
        {"_id": {"$gt": LAST_OPERATION}},
        {"_id": math.nan},
        {"_id": {"$type": _NO_NUMBERS}},
    ]
}
"""Finds, by the index of ids, what is no entry; but for numbers between those of entries, which come with these."""

_TEXTS = ("operator", "address", "op_type", "doc_id", "outcome", "previous", "hash")

_TYPES: dict[str, type | tuple[type, ...]] = {
    "timestamp": float,
    "ops": str,
    "begun": (int, NoneType),
    "which": list,
    **dict.fromkeys(_TEXTS, str),
}
"""The fields of an entry besides `_id`, and their types."""

_CHOICES = [sorted(choice) for count in range(1, 6) for choice in combinations(OPERATION_FILTERS, count)]


def operation_document(entry: Operation) -> Document:
    """The document of an entry."""
    document = {**asdict(entry), "ops": ops_to_text(entry), "doc_id": storable(entry.doc_id)}
    return {"_id": document.pop("seq"), **document, "which": marks(document)}


def operation_from(document: Document) -> Operation:
    """The entry of a document, whatever somebody has made of it: that it is not what it was, the chain tells."""
    timestamp, begun = document.get("timestamp"), document.get("begun")
    return Operation(
        timestamp=timestamp if isinstance(timestamp, float) else -1.0,
        begun=int(begun) if isinstance(begun, int) and not isinstance(begun, bool) else None,
        seq=int(document["_id"]),
        ops=ops_from_text(str(document.get("ops", ""))),
        **texts(document),
    )


def kept_from(document: Document) -> KeptOperation:
    """What a document in the collection is: an entry, as it was put there or not, or something else."""
    number = document["_id"]
    whole = isinstance(number, int) and not isinstance(number, bool)
    if not whole:
        return KeptOperation(0, None, f"a document with the _id {number!r:.60} is {NO_ENTRY}")
    if not 1 <= number <= LAST_OPERATION:
        return KeptOperation(int(number), None, f"its number is that of {NO_ENTRY}")
    return KeptOperation(int(number), operation_from(document), _damage(document))


def head_from(document: Document | None) -> tuple[int, str]:
    """The number and the hash in the note of the last entry; 0 and nothing if they are no such things."""
    seq, digest = (document.get("seq"), document.get("hash")) if document else (None, None)
    if isinstance(seq, int) and not isinstance(seq, bool) and 1 <= seq <= LAST_OPERATION and isinstance(digest, str):
        return int(seq), digest
    return 0, ""


def behind(seq: int) -> Document:
    """Finds the note of the last entry if it is one of an entry before number `seq`, or of none at all."""
    unreadable = [{"seq": {"$not": _WHOLE}}, {"seq": {"$gt": LAST_OPERATION}}, {"hash": {"$not": {"$type": "string"}}}]
    return {"_id": "head", "$or": [{"seq": {"$lt": seq}}, *unreadable]}


def marks(document: Mapping[str, Any]) -> list[int]:
    """Marks of an entry for everything that a list may be asked for: each choice of filters, with its values.

    With an index on each field by itself, filters that match much each and nothing together have MongoDB go through
    all entries; with these, any question has its answer in one place of one index, in order.
    """
    pairs = {field: f"{field}={document[field]}" for field in OPERATION_FILTERS}
    return [_number(pairs[field] for field in choice) for choice in _CHOICES]


def mark(filters: Mapping[str, str]) -> int:
    """The mark of entries that have these values; the query checks the values themselves, too."""
    return _number(f"{field}={filters[field]}" for field in sorted(filters))


def texts(document: Document) -> dict[str, str]:
    """The fields of an entry that are text."""
    return {name: str(document.get(name, "")) for name in _TEXTS}


def _number(pairs: Any) -> int:
    """A number of 64 bits that stands for fields with their values."""
    return int.from_bytes(hashlib.blake2b("\0".join(pairs).encode(), digest_size=8).digest(), signed=True)


def _damage(document: Document) -> str:
    """What is wrong with an entry that its hash does not tell."""
    if more := document.keys() - _TYPES.keys() - {"_id"}:
        return f"it has fields that no entry has: {', '.join(sorted(more))[:200]}"
    wrong = [name for name, kind in _TYPES.items() if not isinstance(document.get(name), kind)]
    if wrong:
        return f"fields are missing or of another type than they were written: {', '.join(wrong)}"
    if document["which"] != marks(document):
        return "lists with filters do not find it, or find it where it does not belong: `which` was changed"
    return ""
