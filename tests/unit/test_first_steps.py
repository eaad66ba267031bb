"""What `python -m dts` leaves for a newcomer: credentials that the commands find, and the next command."""

from __future__ import annotations

from pathlib import Path

import pytest

from dts.client.credentials import load_credentials, load_server_url
from dts.first_steps import keep_credentials, next_steps

URL = "http://127.0.0.1:8000"


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    path = tmp_path / "admin.secret"
    path.write_text("s3cret\n")
    return path


def test_the_commands_find_what_is_kept(tmp_path: Path, secret: Path) -> None:
    file = tmp_path / "new" / "credentials.toml"
    assert keep_credentials("admin", secret, URL, file)
    found = load_credentials(environment={}, file=file)
    assert (found.user_id, found.secret) == ("admin", "s3cret")
    assert load_server_url(environment={}, file=file) == URL
    assert file.stat().st_mode & 0o777 == 0o600
    assert keep_credentials("admin", secret, URL + "1", file), "a later start, elsewhere"
    assert load_server_url(environment={}, file=file) == URL + "1"


def test_what_the_user_has_written_stays(tmp_path: Path, secret: Path) -> None:
    file = tmp_path / "credentials.toml"
    file.write_text('username = "alice"\n')
    assert not keep_credentials("admin", secret, URL, file)
    assert file.read_text() == 'username = "alice"\n'


def test_a_place_that_cannot_be_written_costs_a_warning(
    tmp_path: Path, secret: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("")
    assert not keep_credentials("admin", secret, URL, tmp_path / "file" / "credentials.toml")
    assert "credentials are not kept" in caplog.text


def test_the_next_command_names_a_function_of_the_folder(tmp_path: Path) -> None:
    assert "dts-client text/upper - - http" in next_steps(URL, None, "")
    (tmp_path / "own").mkdir()
    assert "dts-client text/upper - - http" in next_steps(URL, tmp_path, "")
    (tmp_path / "own" / "_helper.py").write_text("")
    (tmp_path / "own" / "hello.py").write_text("")
    text = next_steps(URL, tmp_path, "--username admin --secret-file var/admin.secret")
    assert "dts-client own/hello - - --username admin --secret-file var/admin.secret http" in text
