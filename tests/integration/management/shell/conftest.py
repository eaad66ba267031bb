"""`dts-admin` against a real server, within the test's event loop."""

from __future__ import annotations

import io
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from dts.management import admin
from dts.management.commands import ALL_COMMANDS
from dts.management.shell.grammar import Grammar
from dts.runtime.process import Shutdown
from tests.integration.conftest import Site

GRAMMAR = Grammar(ALL_COMMANDS)

Run = Callable[..., Awaitable[int]]


@pytest.fixture
def dts_admin(site: Site, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    """Runs `dts-admin` as the administrator, within this event loop; returns its exit status."""
    for name in ("DTS_USERNAME", "DTS_SECRET", "DTS_SECRET_FILE", "DTS_SERVER_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("sys.stdin", io.StringIO())
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    credentials = ["--username", "admin", "--secret-file", str(site.settings.server.admin_secret_file)]

    async def run(*argv: str, user: list[str] = credentials) -> int:
        options = admin.build_parser(GRAMMAR).parse_args(["--url", site.url, *user, *argv])
        return await admin.run(options, GRAMMAR, Shutdown())

    return run


def write(path: str, text: str) -> None:
    """Make a file in the current directory."""
    Path(path).write_text(text)


def said(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    """The JSON on stdout."""
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]
