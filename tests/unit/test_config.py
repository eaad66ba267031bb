"""Settings: where they come from, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from dts.config import Settings, load_config_file, load_settings
from dts.errors import ConfigError

ROOT = Path(__file__).parents[2]


def write(folder: Path, text: str) -> Path:
    path = folder / "dts.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_flag_over_environment_over_file_over_default(tmp_path: Path) -> None:
    path = write(tmp_path, "[server]\nport = 1\nhost = 'file'\nblock_size = 7\n")
    environment = {"DTS_SERVER_PORT": "2", "DTS_SERVER_HOST": "environment"}
    settings = load_settings(path, environment=environment, flags={"server": {"port": 3}})
    assert (settings.server.port, settings.server.host, settings.server.block_size) == (3, "environment", 7)
    assert settings.server.max_slice == Settings().server.max_slice


def test_dev_lays_its_table_over_the_file(tmp_path: Path) -> None:
    path = write(tmp_path, "[server]\nport = 1\nhost = 'h'\n[dev.server]\nport = 2\n")
    assert load_settings(path, environment={}).server.port == 1
    dev = load_settings(path, dev=True, environment={})
    assert (dev.server.port, dev.server.host) == (2, "h")


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("[server]\nprot = 1\n", "prot"),
        ("[sever]\nport = 1\n", "sever"),
        ("[server]\nport = 'x'\n", "server.port"),
        ("[server]\nport = 70000\n", "server.port"),
        ("[worker]\nroutes = ['Not A Route']\n", "worker.routes"),
        ("[server\n", "not valid TOML"),
    ],
)
def test_a_wrong_setting_is_refused_by_name(tmp_path: Path, text: str, named: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_settings(write(tmp_path, text), environment={})
    assert named in caught.value.message
    assert "dts.toml" in caught.value.message


def test_a_wrong_variable_is_refused_by_name() -> None:
    with pytest.raises(ConfigError, match="prot"):
        load_settings(None, environment={"DTS_SERVER_PROT": "1"})


def test_variables_that_are_no_settings_are_left_alone() -> None:
    of_clients = {"DTS_SECRET": "x", "DTS_USERNAME": "y", "DTS_SERVER_URL": "http://a:1"}
    assert load_settings(None, environment=of_clients) == Settings()


def test_lists_come_from_the_environment_as_words() -> None:
    assert load_settings(None, environment={"DTS_WORKER_ROUTES": "a b"}).worker.routes == ("a", "b")


def test_a_missing_file_is_named() -> None:
    with pytest.raises(ConfigError, match="no-such-file"):
        load_config_file("no-such-file.toml")


@pytest.mark.parametrize("path", sorted((ROOT / "etc").rglob("*.toml")), ids=str)
def test_the_shipped_files_state_the_defaults(path: Path) -> None:
    settings = load_settings(path, environment={})
    if "cluster" in path.parts:
        assert settings.broker.url.startswith("amqp://")
    else:
        assert settings == Settings()
    load_settings(path, dev=True, environment={})


@pytest.mark.parametrize("dev", [True, False])
def test_dev_must_be_a_table(tmp_path: Path, dev: bool) -> None:
    with pytest.raises(ConfigError, match="must be a table"):
        load_settings(write(tmp_path, "dev = 5\n"), dev=dev, environment={})
