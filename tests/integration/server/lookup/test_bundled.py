"""The functions that come with DTS: put in once, and gone for good when somebody deletes them."""

from __future__ import annotations

from pathlib import Path

import pytest

from dts.config import Settings
from dts.model import Function, Namespace
from dts.server.app import Server
from dts.server.lookup import catalogue
from dts.store import Store, open_store


async def names(store: Store) -> set[str]:
    return {function.name for function in await store.list_functions()}


async def restart(settings: Settings) -> None:
    async with Server(settings):
        pass


async def test_what_was_deleted_does_not_come_back(settings: Settings) -> None:
    await restart(settings)
    async with open_store(settings.store.url) as store:
        before = await names(store)
        assert await store.delete_record(Function, "text/upper", version=1)
        await restart(settings)
        assert await names(store) == before - {"text/upper"}


async def test_a_later_version_adds_what_is_new_in_it(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(catalogue, "BUNDLED", tmp_path / "bundled")
    (tmp_path / "bundled" / "shapes").mkdir(parents=True)
    (tmp_path / "bundled" / "shapes" / "circle.py").write_text("def main():\n    pass\n")
    await restart(settings)
    async with open_store(settings.store.url) as store:
        assert await store.delete_record(Function, "shapes/circle", version=1)
        assert await store.delete_record(Namespace, "shapes", version=1)
        await restart(settings)
        assert await names(store) == set()
        assert await store.get_record(Namespace, "shapes") is None, "nothing new is in it"
        (tmp_path / "bundled" / "shapes" / "square.py").write_text("def main():\n    pass\n")
        await restart(settings)
        assert await names(store) == {"shapes/square"}
        assert await store.get_record(Namespace, "shapes") is not None


async def test_what_a_start_was_cut_off_at_is_completed(settings: Settings) -> None:
    async with open_store(settings.store.url) as store:
        await store.add_record(Namespace("text"))
        await store.add_function(Function("text/upper", description="as it was"))
        await restart(settings)
        upper = await store.get_function("text/upper")
        assert upper is not None
        assert upper.description == "as it was"
        assert {"text/upper", "text/wordcount"} <= await names(store)
