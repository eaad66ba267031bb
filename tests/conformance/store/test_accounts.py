"""Users, functions, nonces."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import pytest

from dts.errors import DuplicateKey
from dts.model import Function, User
from dts.store import Store


async def test_a_user_is_found_as_added(store: Store) -> None:
    user = User("ann", b"\x00key\xff", frozenset({"user", "administrator"}), 12.5)
    assert not await store.has_users()
    await store.add_user(user)
    assert await store.has_users()
    assert await store.get_user("ann") == user
    assert await store.get_user("bob") is None


async def test_a_user_id_is_taken_once(store: Store) -> None:
    await store.add_user(User("ann", b"first"))
    with pytest.raises(DuplicateKey, match="ann"):
        await store.add_user(User("ann", b"second"))
    found = await store.get_user("ann")
    assert found is not None
    assert found.key == b"first"


async def test_functions_are_listed_by_name(store: Store) -> None:
    functions = [Function(f"text/{name}", "what it does: ü", "default", 1.0) for name in ("upper", "lower", "count")]
    for function in functions:
        await store.add_function(function)
    assert await store.list_functions() == sorted(functions, key=lambda function: function.name)
    assert await store.get_function("text/upper") == functions[0]
    assert await store.get_function("text/none") is None
    with pytest.raises(DuplicateKey, match="text/upper"):
        await store.add_function(functions[0])


async def test_speeds_are_noted_for_functions_that_exist(store: Store) -> None:
    await store.add_function(Function("text/upper", created=1.0))
    await store.set_speeds({})
    await store.set_speeds({"text/upper": (0.25, True), "text/gone": (1.0, False)})
    assert await store.list_functions() == [Function("text/upper", created=1.0, mean_duration=0.25, concurrent=True)]


async def test_a_nonce_counts_once_over_all_stores(store: Store, open_another: Callable[[], Store]) -> None:
    other = open_another()
    await other.start()
    expires = time.time() + 60
    tries = await asyncio.gather(*(one.use_nonce("ann", "n1", expires) for one in (store, other) * 10))
    assert sorted(tries) == [False] * 19 + [True]


async def test_nonces_of_users_are_apart(store: Store) -> None:
    expires = time.time() + 60
    assert await store.use_nonce("ann", "n1", expires)
    assert await store.use_nonce("bob", "n1", expires)
    assert await store.use_nonce("annn", "1", expires)
    assert not await store.use_nonce("ann", "n1", expires + 60)


async def test_a_nonce_outlives_the_process_that_used_it(store: Store, open_another: Callable[[], Store]) -> None:
    assert await store.use_nonce("ann", "n1", time.time() + 60)
    await store.close()
    later = open_another()
    await later.start()
    assert not await later.use_nonce("ann", "n1", time.time() + 60)
