"""The functions that come with DTS: put in once, and gone for good when somebody deletes them."""

from __future__ import annotations

from pathlib import Path

import pytest
from msgspec.structs import replace

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


async def test_the_functions_of_a_folder_are_registered_at_the_start_and_when_they_are_asked_for(
    settings: Settings, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "functions"
    (folder / "shop").mkdir(parents=True)
    (folder / "shop" / "price.py").write_text('"""What it costs."""\nasync def main():\n    pass\n')
    (folder / "shop" / "helper.py").write_text("def tool():\n    pass\n")
    (folder / "shop" / "_db.py").write_text("def main():\n    pass\n")
    (folder / "shop" / "half.py").write_text("def main(:\n")
    (folder / "server").mkdir()
    (folder / "server" / "deploy.py").write_text("def main():\n    pass\n")
    settings = replace(settings, server=replace(settings.server, functions=str(folder)))
    async with Server(settings), open_store(settings.store.url) as store:
        found = {name for name in await names(store) if name.startswith(("shop/", "server/"))}
        assert found == {"shop/price"}
        price = await store.get_function("shop/price")
        assert price is not None
        assert price.description == "What it costs."
        assert "half.py is not registered as a function" in caplog.text

        later = catalogue.Catalogue(store, folder)
        assert await later.get("shop/later") is None
        (folder / "shop" / "later.py").write_text("from shop.price import main\n")
        assert await later.get("shop/later") is not None
        assert await store.delete_record(Function, "shop/later", version=1)
        later.forget("shop/later")
        assert await later.get("shop/later") is None, "who deletes one is rid of it"


async def test_what_a_start_was_cut_off_at_is_completed(settings: Settings) -> None:
    async with open_store(settings.store.url) as store:
        await store.add_record(Namespace("text"))
        await store.add_function(Function("text/upper", description="as it was"))
        await restart(settings)
        upper = await store.get_function("text/upper")
        assert upper is not None
        assert upper.description == "as it was"
        assert {"text/upper", "text/wordcount"} <= await names(store)
