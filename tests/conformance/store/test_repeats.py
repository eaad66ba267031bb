"""What a store remembers so that a repeat is known as one: idempotency keys, and what was put in once."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import replace

from dts.model import KeyedRequest, new_id
from dts.store import Store


def a_request(user: str = "ann", key: str = "k1", *, body: bytes = b"body") -> KeyedRequest:
    return KeyedRequest(user, key, new_id(), body, round(time.time(), 3))


async def test_a_key_stands_for_what_it_was_first_used_for(store: Store) -> None:
    first = a_request()
    assert await store.remember_request(first) == first
    assert await store.remember_request(a_request(body=b"other")) == first
    assert await store.remember_request(first) == first


async def test_a_key_is_found_as_it_was_remembered(store: Store) -> None:
    assert await store.find_request("ann", "k1") is None
    first = await store.remember_request(a_request())
    assert await store.find_request("ann", "k1") == first
    assert await store.find_request("bob", "k1") is None


async def test_keys_are_of_a_user(store: Store) -> None:
    first = a_request()
    await store.remember_request(first)
    for other in (a_request("bob"), a_request(key="k2"), a_request(key="K1"), a_request("ann ", "k1")):
        assert await store.remember_request(other) == other


async def test_of_many_at_once_one_is_first(store: Store, open_another: Callable[[], Store]) -> None:
    other = open_another()
    await other.start()
    for number in range(10):
        asked = [a_request(key=f"k{number}") for _ in range(6)]
        answers = await asyncio.gather(
            *((store, other)[at % 2].remember_request(each) for at, each in enumerate(asked))
        )
        assert len({answer.run for answer in answers}) == 1
        assert answers[0] in asked


async def test_a_key_may_be_any_text(store: Store) -> None:
    for key in ("", " ", "$where", "a.b", "~" * 64):
        request = a_request(key=key)
        assert await store.remember_request(replace(request)) == request


async def test_what_was_put_in_once_is_remembered(store: Store, open_another: Callable[[], Store]) -> None:
    assert await store.list_seeded() == frozenset()
    await store.note_seeded(["text", "text/upper"])
    await store.note_seeded(["text/upper", "text/lower"])
    await store.note_seeded([])
    other = open_another()
    await other.start()
    assert await other.list_seeded() == {"text", "text/upper", "text/lower"}
