"""A plain document: what a part of the server keeps of its own work, under no schema of the store's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

MAX_DOCUMENT_BODY = 12 * 1024 * 1024
"""Bytes of a document's body at most: with its data it fits in what MongoDB allows a document."""


@dataclass(frozen=True, slots=True)
class Document:
    """A document of a collection, such as a notice in the outbox or a version of a function.

    `id` is unique in the collection, and lists go by it. `data` is JSON. `group` is what a list can be asked for.
    `due` is when the document wants to be worked on, None for never; after `expires` it may be dropped, None for never;
    both are in seconds since the epoch, by the store's clock. `body` is read only by those who ask for it. `revision`
    goes up by one with every write; 0 is a document that was not stored yet.
    """

    collection: str
    id: str
    data: Mapping[str, Any]
    group: str = ""
    due: float | None = None
    expires: float | None = None
    body: bytes = b""
    revision: int = 0
