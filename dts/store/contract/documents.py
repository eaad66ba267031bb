"""The contract of a store, the part about documents: what parts of the server keep without a table of their own.

The outbox of notices, deployments, firings of schedules, versions of functions and the like are documents: the store
knows a document's id, its group, when it is due and when it expires, and nothing else of it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from dts.errors import NotStorable
from dts.model.documents import MAX_DOCUMENT_BODY, Document
from dts.store.contract.shared import storable_value


class DocumentStore(ABC):
    """What a store does with documents."""

    @abstractmethod
    async def add_document(self, document: Document) -> bool:
        """Add a document, durably, with revision 1; whether it was added: False if there is one of its id."""

    @abstractmethod
    async def put_documents(self, documents: Sequence[Document], *, durable: bool = True) -> None:
        """Store documents in place of whatever is there under their ids. Unless `durable`, a power cut may undo it."""

    @abstractmethod
    async def replace_document(self, document: Document) -> bool:
        """Store a document, durably, if what is there has its revision; whether it was stored."""

    @abstractmethod
    async def get_documents(self, collection: str, ids: Iterable[str], *, body: bool = False) -> list[Document]:
        """Those documents of these ids that there are, by id. Without `body` their bodies are empty."""

    async def get_document(self, collection: str, document_id: str, *, body: bool = False) -> Document | None:
        """The document of that id, or None. Without `body` its body is empty."""
        found = await self.get_documents(collection, [document_id], body=body)
        return found[0] if found else None

    @abstractmethod
    async def list_documents(
        self,
        collection: str,
        *,
        group: str | None = None,
        after: str | None = None,
        limit: int = 1000,
        newest_first: bool = False,
    ) -> list[Document]:
        """Documents by id, of a group or of all, from the one that follows the id `after`, without their bodies.

        `newest_first` turns the order round.
        """

    @abstractmethod
    async def count_documents(self, collection: str, *, group: str | None = None) -> int:
        """How many documents a collection, or a group of it, has."""

    @abstractmethod
    async def claim_documents(self, collection: str, *, seconds: float, limit: int) -> list[Document]:
        """Take documents that are due now, by the store's clock, the longest due first; with their new revisions.

        In the same write each becomes due in `seconds` again: until then no other caller gets it, and if the one who
        has it dies, another does after that. Who has done the work writes the document at the revision that it was
        given, or deletes it.
        """

    @abstractmethod
    async def delete_document(self, document: Document) -> bool:
        """Delete a document, durably, if what is there has its revision; whether it was deleted."""

    @abstractmethod
    async def delete_documents(self, collection: str, ids: Iterable[str]) -> int:
        """Delete documents, durably, whatever their revisions; how many there were."""

    @abstractmethod
    async def drop_expired_documents(self, *, limit: int = 1000) -> int:
        """Delete documents of all collections that have expired, up to `limit`; how many."""


def data_to_json(document: Document) -> bytes:
    """A document's data as JSON.

    Raises:
        NotStorable: its body is too large.
    """
    if len(document.body) > MAX_DOCUMENT_BODY:
        raise NotStorable(
            f"the body of {document.collection} {document.id} has {len(document.body)} bytes: "
            f"{MAX_DOCUMENT_BODY} is the most that can be stored"
        )
    return msgspec.json.encode(storable_value(document.data))


def data_from_json(text: bytes) -> dict[str, Any]:
    """The data that `data_to_json` was given."""
    return msgspec.json.decode(text, type=dict[str, Any])
