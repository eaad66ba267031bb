"""Documents: what parts of the server keep without a table of their own."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace

import pytest

from dts.errors import NotStorable
from dts.model import MAX_DOCUMENT_BODY, Document
from dts.store import Store


def notice(number: int, **fields: object) -> Document:
    return replace(Document("outbox", f"n{number:04}", {"text": f"notice {number}"}), **fields)  # type: ignore[arg-type]


async def test_a_document_is_added_once_and_read_back_whole(store: Store) -> None:
    document = Document("versions", "a.b/$c d", {"$by.": {"x": [1, None, "ü"]}}, "text/len", 5.5, 2e10, b"\0body")
    assert await store.add_document(document)
    assert not await store.add_document(replace(document, data={}))
    assert await store.get_document("versions", document.id, body=True) == replace(document, revision=1)
    assert await store.get_document("versions", document.id) == replace(document, revision=1, body=b"")
    assert await store.get_document("outbox", document.id) is None


async def test_a_write_at_a_revision_that_is_no_longer_there_changes_nothing(store: Store) -> None:
    await store.add_document(notice(1, due=1.0, expires=2e10, body=b"1"))
    first = await store.get_document("outbox", "n0001", body=True)
    assert first is not None
    assert await store.replace_document(replace(first, data={"text": "sent"}, due=None, expires=None))
    assert not await store.replace_document(replace(first, data={"text": "lost"}))
    assert not await store.delete_document(first)
    now = await store.get_document("outbox", "n0001", body=True)
    assert now == Document("outbox", "n0001", {"text": "sent"}, body=b"1", revision=2)
    assert await store.delete_document(now)
    assert not await store.replace_document(now)
    assert await store.get_document("outbox", "n0001") is None


async def test_documents_are_put_over_what_is_there(store: Store) -> None:
    await store.add_document(notice(1, due=1.0))
    await store.put_documents([notice(1, data={"text": "other"}), notice(2)], durable=False)
    await store.put_documents([])
    assert [(each.data["text"], each.due, each.revision) for each in await store.list_documents("outbox")] == [
        ("other", None, 2),
        ("notice 2", None, 1),
    ]


async def test_lists_go_by_id_and_group_in_pages(store: Store) -> None:
    await store.put_documents([notice(number, group="even" if number % 2 == 0 else "odd") for number in range(7)])
    await store.put_documents([Document("other", "n0003", {})])

    async def ids(**query: object) -> str:
        return "".join(each.id[-1] for each in await store.list_documents("outbox", **query))  # type: ignore[arg-type]

    assert await ids() == "0123456"
    assert await ids(group="odd") == "135"
    assert await ids(group="even", after="n0000", limit=2) == "24"
    assert await ids(newest_first=True, after="n0005", limit=3) == "432"
    assert await ids(limit=0) == ""
    assert await store.count_documents("outbox") == 7
    assert await store.count_documents("outbox", group="odd") == 3
    assert await store.delete_documents("outbox", ["n0001", "n0003", "none"]) == 2
    assert await ids(group="odd") == "5"
    assert [each.id for each in await store.get_documents("outbox", ["n0004", "none", "n0002"])] == ["n0002", "n0004"]


async def test_what_is_due_is_claimed_by_one(store: Store, open_another: Callable[[], Store]) -> None:
    now = store.now()
    due = [notice(number, due=now - 100 + number) for number in range(20)]
    await store.put_documents([*due, notice(90, due=now + 3600), notice(91)])
    claimed: list[Document] = []
    async with open_another() as other:
        for _ in due:  # of claims at the same moment one may get them all: at least one document is taken each time
            both = [each.claim_documents("outbox", seconds=600, limit=4) for each in (store, other)]
            for taken in await asyncio.gather(*both):
                assert len(taken) <= 4
                claimed += taken
    assert sorted(each.id for each in claimed) == [each.id for each in due]
    mine = claimed[0]
    assert mine.due is not None
    assert mine.due > now + 500
    assert await store.replace_document(replace(mine, due=None, data={"text": "sent"}))


async def test_a_claim_that_is_over_is_taken_again_and_the_first_holder_cannot_write(store: Store) -> None:
    await store.add_document(notice(1, due=store.now() - 10))
    (first,) = await store.claim_documents("outbox", seconds=-5, limit=10)  # over when it was taken
    (second,) = await store.claim_documents("outbox", seconds=600, limit=10)
    assert not await store.replace_document(replace(first, due=None))
    assert await store.replace_document(replace(second, due=None))
    assert await store.claim_documents("outbox", seconds=600, limit=10) == []


async def test_what_has_expired_is_dropped(store: Store) -> None:
    now = store.now()
    await store.put_documents([notice(number, expires=now - 1 - number) for number in range(5)])
    await store.put_documents([notice(7, expires=now + 3600), notice(8)])
    assert await store.drop_expired_documents(limit=3) == 3
    assert await store.drop_expired_documents() == 2
    assert [each.id for each in await store.list_documents("outbox")] == ["n0007", "n0008"]


async def test_a_body_that_is_too_large_is_refused_and_the_largest_is_kept(store: Store) -> None:
    with pytest.raises(NotStorable, match="is the most that can be stored"):
        await store.add_document(notice(1, body=b"x" * (MAX_DOCUMENT_BODY + 1)))
    assert await store.add_document(notice(1, body=b"x" * MAX_DOCUMENT_BODY))


async def test_texts_that_are_no_utf_8_can_be_stored_and_found(store: Store) -> None:
    odd = Document("outbox", "a\ud800", {"text": "\udfff"}, group="g\ud801")
    assert await store.add_document(odd)
    assert await store.get_document("outbox", odd.id) is not None
    assert await store.count_documents("outbox", group=odd.group) == 1
    assert await store.delete_documents("outbox", [odd.id]) == 1
