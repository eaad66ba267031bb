"""The key file: a server that has another one than the store's other servers says so, and does not serve."""

from __future__ import annotations

import stat
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
from tornado.httpclient import AsyncHTTPClient

from dts.auth import derive_key
from dts.config import Settings
from dts.errors import ConfigError
from dts.model import User
from dts.server.access.key_box import KeyBox
from dts.server.app import Server
from dts.store import open_store
from tests.integration.conftest import Api, Credentials, Site, check_refusal


@pytest.fixture
def cluster_settings(settings: Settings, urls: tuple[str, str]) -> Settings:
    """Settings on each set of back ends."""
    store, broker = urls
    replaced = msgspec.structs.replace
    return replaced(settings, store=replaced(settings.store, url=store), broker=replaced(settings.broker, url=broker))


def with_key_file(settings: Settings, path: Path) -> Settings:
    return msgspec.structs.replace(settings, server=msgspec.structs.replace(settings.server, key_file=path))


async def test_a_second_server_makes_no_key_of_its_own(cluster_settings: Settings, tmp_path: Path) -> None:
    async with Server(cluster_settings):
        pass
    missing = tmp_path / "second" / "server.key"
    with pytest.raises(ConfigError, match="copy that of another server"):
        async with Server(with_key_file(cluster_settings, missing)):
            pass
    assert not missing.exists()


async def test_a_server_with_another_key_file_does_not_start(cluster_settings: Settings, tmp_path: Path) -> None:
    async with Server(cluster_settings):
        pass
    KeyBox.open(tmp_path / "other.key")
    with pytest.raises(ConfigError, match="another key file"):
        async with Server(with_key_file(cluster_settings, tmp_path / "other.key")):
            pass
    async with Server(cluster_settings) as server:  # and nothing was spoilt
        secret = cluster_settings.server.admin_secret_file.read_text().strip()
        await Api(f"http://127.0.0.1:{server.port}", Credentials("admin", secret)).call("GET", "/whoami")


async def test_a_server_whose_store_was_exchanged_is_not_ready(site: Site, tmp_path: Path) -> None:
    url = f"{site.url}/health/ready"
    answer = await AsyncHTTPClient().fetch(url)
    assert msgspec.json.decode(answer.body)["result"] == {
        "status": "ok", "store": "ok", "broker": "ok",
    }  # fmt: skip
    admin = await site.store.get_user("admin")
    assert admin is not None
    other = KeyBox.open(tmp_path / "other.key").seal(derive_key("admin", "secret"), "users/admin")
    assert await site.store.replace_record(replace(admin, key=other, version=admin.version + 1), version=admin.version)
    answer = await AsyncHTTPClient().fetch(url, raise_error=False)
    assert answer.code == 503
    assert msgspec.json.decode(answer.body)["result"]["key_file"] == "unavailable"


async def test_a_key_copied_into_another_record_lets_nobody_in(site: Site) -> None:
    """Whoever writes to the store alone must not become another user by it."""
    eve = await site.add_user("eve")
    await eve.call("GET", "/whoami")
    async with open_store(site.settings.store.url) as store:
        known = await store.get_user("eve")
        assert known is not None
        await store.add_user(User("mallory", known.key, frozenset({"administrator"})))
    answer = await Api(site.url, Credentials("mallory", "secret of eve")).send("GET", "/whoami")
    check_refusal(answer, 401, "unauthorized")
    answer = await Api(site.url, Credentials("nobody", "secret of eve")).send("GET", "/whoami")
    check_refusal(answer, 401, "unauthorized")


async def test_the_folder_of_keys_is_for_its_owner_alone(settings: Settings, tmp_path: Path) -> None:
    var = tmp_path / "var"
    replaced = msgspec.structs.replace
    server = replaced(settings.server, key_file=var / "server.key", admin_secret_file=var / "admin.secret")
    store, broker = (replaced(section, url=f"sqlite:///{var}/{name}.db") for section, name in (
        (settings.store, "store"), (settings.broker, "queue"),
    ))  # fmt: skip
    async with Server(replaced(settings, server=server, store=store, broker=broker)):
        assert stat.S_IMODE(var.stat().st_mode) == 0o700
