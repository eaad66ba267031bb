"""Who signed a request, as several servers over one store see it."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from dts.auth import Credentials, KeccakAuthenticator, Request
from dts.errors import AuthError
from dts.model import User
from dts.server.access.accounts import Accounts
from dts.server.access.key_box import KeyBox
from dts.store import Store, open_store

HOSTS = ["localhost:8000"]
REQUEST = Request("GET", HOSTS[0], "/whoami")


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    async with open_store(f"sqlite:///{tmp_path}/store.db") as started:
        yield started


@pytest.fixture
def keys(tmp_path: Path) -> KeyBox:
    return KeyBox.open(tmp_path / "server.key")


def signed_with(secret: str) -> str:
    return KeccakAuthenticator(Credentials("ann", secret)).sign(REQUEST)


async def test_a_new_secret_is_good_at_every_server_at_once(store: Store, keys: KeyBox) -> None:
    one, other = Accounts(store, keys), Accounts(store, keys)
    ann = User("ann", one.sealed_key("ann", "the first"), modified=time.time())
    await store.add_user(ann)
    for accounts in (one, other):
        assert (await accounts.authenticate(signed_with("the first"), REQUEST, HOSTS)).user.version == 1
    rotated = replace(ann, key=one.sealed_key("ann", "the second"), version=2)
    await store.replace_record(rotated, version=1)
    one.forget("ann")
    for accounts in (one, other):
        assert (await accounts.authenticate(signed_with("the second"), REQUEST, HOSTS)).user.version == 2
        with pytest.raises(AuthError):
            await accounts.authenticate(signed_with("the first"), REQUEST, HOSTS)


async def test_who_is_let_in_again_is_so_at_every_server_at_once(store: Store, keys: KeyBox) -> None:
    accounts = Accounts(store, keys)
    ann = User("ann", accounts.sealed_key("ann", "the first"), disabled=True)
    await store.add_user(ann)
    accounts.forget("ann")
    with pytest.raises(AuthError):
        await accounts.authenticate(signed_with("the first"), REQUEST, HOSTS)
    other = Accounts(store, keys)
    await store.replace_record(replace(ann, disabled=False, version=2), version=1)
    assert await other.authenticate(signed_with("the first"), REQUEST, HOSTS)


async def test_rubbish_signatures_do_not_make_the_store_work(
    store: Store, keys: KeyBox, monkeypatch: pytest.MonkeyPatch
) -> None:
    accounts, looks = Accounts(store, keys), 0
    await store.add_user(User("ann", accounts.sealed_key("ann", "the first")))
    get_user = store.get_user

    async def counting(user_id: str) -> User | None:
        nonlocal looks
        looks += 1
        return await get_user(user_id)

    monkeypatch.setattr(store, "get_user", counting)
    began = time.monotonic()
    for _ in range(200):
        with pytest.raises(AuthError):
            await accounts.authenticate(signed_with("rubbish"), REQUEST, HOSTS)
    took = time.monotonic() - began
    assert looks <= 2 + took / 0.1 + took / 2
    assert await accounts.authenticate(signed_with("the first"), REQUEST, HOSTS)
