"""Where credentials are taken from."""

from __future__ import annotations

from pathlib import Path

import pytest

from dts.client import load_credentials
from dts.errors import ConfigError


@pytest.fixture
def secret_file(tmp_path: Path) -> str:
    (tmp_path / "secret").write_text("from a file\n")
    return str(tmp_path / "secret")


@pytest.fixture
def credentials_file(tmp_path: Path) -> Path:
    path = tmp_path / "credentials.toml"
    path.write_text('username = "carol"\nsecret = "carol\'s"\n')
    return path


def test_flags_go_first(secret_file: str, credentials_file: Path) -> None:
    environment = {"DTS_USERNAME": "bob", "DTS_SECRET": "bob's"}
    found = load_credentials("alice", secret_file, environment=environment, file=credentials_file)
    assert (found.user_id, found.secret) == ("alice", "from a file")


def test_then_the_environment(secret_file: str, credentials_file: Path) -> None:
    found = load_credentials(environment={"DTS_USERNAME": "bob", "DTS_SECRET": "bob's"}, file=credentials_file)
    assert (found.user_id, found.secret) == ("bob", "bob's")
    environment = {"DTS_USERNAME": "bob", "DTS_SECRET": "", "DTS_SECRET_FILE": secret_file}
    assert load_credentials(environment=environment, file=credentials_file).secret == "from a file"


def test_then_the_file(secret_file: str, credentials_file: Path) -> None:
    found = load_credentials(environment={}, file=credentials_file)
    assert (found.user_id, found.secret) == ("carol", "carol's")
    credentials_file.write_text(f'username = "carol"\nsecret_file = "{secret_file}"')
    assert load_credentials(environment={}, file=credentials_file).secret == "from a file"


def test_sources_fill_each_other_in(credentials_file: Path, secret_file: str) -> None:
    found = load_credentials("dave", environment={"DTS_SECRET": "d"}, file=credentials_file)
    assert (found.user_id, found.secret) == ("dave", "d")
    found = load_credentials(None, secret_file, environment={}, file=credentials_file)
    assert (found.user_id, found.secret) == ("carol", "from a file")


def test_nobody_uses_the_secret_of_another(credentials_file: Path) -> None:
    with pytest.raises(ConfigError, match="no secret for dave is given"):
        load_credentials("dave", environment={"DTS_USERNAME": "bob", "DTS_SECRET": "b"}, file=credentials_file)


def test_without_any_all_three_ways_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load_credentials(environment={}, file=tmp_path / "missing")
    for way in ("--username", "DTS_USERNAME", "credentials.toml"):
        assert way in caught.value.message


@pytest.mark.parametrize(
    ("content", "reason"),
    [("= 1", "not valid TOML"), ("password = 'x'", "it has password"), ("username = 7", "each a string")],
)
def test_a_damaged_file_is_named(content: str, reason: str, tmp_path: Path) -> None:
    path = tmp_path / "credentials.toml"
    path.write_text(content)
    with pytest.raises(ConfigError, match=reason):
        load_credentials(environment={}, file=path)


def test_a_missing_or_empty_secret_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot read the secret from .*missing"):
        load_credentials("alice", str(tmp_path / "missing"), environment={})
    (tmp_path / "empty").write_text("\n")
    with pytest.raises(ConfigError, match=r"the secret in .*empty is empty"):
        load_credentials("alice", str(tmp_path / "empty"), environment={})


def test_a_user_name_that_cannot_be_one_is_refused() -> None:
    with pytest.raises(ConfigError, match="is not a user name"):
        load_credentials("A B", environment={"DTS_SECRET": "x"})
