"""Rows over time in documents: a chunk is the rows of one subject for some time, compressed.

Several processes may note the same subject at the same time, each in chunks of its own; whoever reads them puts their
rows together.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from dts.model import Document
from dts.store import Store

Row = list[Any]
"""The first item is the time at which the row begins, in whole seconds since the epoch."""

_LEVEL = 6  # of zlib
_LIST = 1000
_BODIES = 50  # chunks that are read at once


def start_of(time: float, length: int) -> int:
    """When the chunk, or the row, begins that a time is in."""
    return int(time // length) * length


def chunk_document(
    collection: str, key: str, group: str, rows: Sequence[Row], *, expires: float, data: Mapping[str, Any] | None = None
) -> Document:
    """Rows as a document."""
    body = zlib.compress(msgspec.msgpack.encode(rows), _LEVEL)
    return Document(collection, key, data or {}, group=group, expires=expires, body=body)


async def read_rows(store: Store, collection: str, group: str, *, first: str, last: str) -> list[Row]:
    """All rows of a group's chunks whose ids are from `first` to before `last`, in the order of the chunks.

    Raises:
        StoreUnavailable: the store does not answer.
    """
    ids: list[str] = []
    after: str | None = first
    while page := await store.list_documents(collection, group=group, after=after, limit=_LIST):
        ids += [document.id for document in page if document.id < last]
        if len(page) < _LIST or page[-1].id >= last:
            break
        after = page[-1].id
    rows: list[Row] = []
    for begin in range(0, len(ids), _BODIES):
        for document in await store.get_documents(collection, ids[begin : begin + _BODIES], body=True):
            if document.body:
                rows += msgspec.msgpack.decode(zlib.decompress(document.body), type=list[Row])
    return rows
