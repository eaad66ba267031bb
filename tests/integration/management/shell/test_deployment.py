"""`functions deploy` and its like: from a folder to what new jobs run."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from dts.errors import InvalidInput
from dts.management.deployment.folder import read_source
from dts.management.deployment.self_test import try_out
from dts.wire.archive import SourceFile
from tests.integration.conftest import Site
from tests.integration.management.shell.conftest import Run, said

GOOD = "from . import words\ndef main(line): return words.count(line)\ndef self_test(): assert main('a b') == 2\n"
WORDS = "def count(line): return len(line.split())\n"


def folder(path: Path, **files: str) -> str:
    """A folder with modules."""
    path.mkdir(exist_ok=True)
    for name, text in files.items():
        (path / f"{name}.py").write_text(text)
    return str(path)


async def active(site: Site) -> Any:
    return await site.api().call("GET", "/admin/functions/mine/stats")


async def test_a_folder_is_deployed_in_one_command_and_rolled_back_in_another(
    site: Site, dts_admin: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = folder(tmp_path / "stats", main=GOOD, words=WORDS)
    assert await dts_admin("--json", "functions", "deploy", "mine/stats", path, "-m", "first") == 0
    captured = capsys.readouterr()
    assert "its self_test() passes" in captured.err
    assert "mine/stats is registered now" in captured.err
    first = (await active(site))["deployed"]
    folder(tmp_path / "stats", words=WORDS + "# faster\n")
    assert await dts_admin("functions", "deploy", "mine/stats", path, "-m", "faster") == 0
    second = (await active(site))["deployed"]
    assert first != second
    capsys.readouterr()
    assert await dts_admin("--json", "functions", "versions", "mine/stats") == 0
    assert [(row["version"], row["message"]) for row in said(capsys)] == [(second, "faster"), (first, "first")]
    assert await dts_admin("functions", "versions", "mine/stats") == 0
    assert "active" in capsys.readouterr().out
    assert await dts_admin("functions", "diff", "mine/stats") == 0
    assert "+# faster" in capsys.readouterr().out
    assert await dts_admin("functions", "rollback", "mine/stats") == 0
    assert (await active(site))["deployed"] == first
    assert await dts_admin("functions", "rollback", "mine/stats") != 0  # there is none before it
    assert "no version of mine/stats was deployed before" in capsys.readouterr().err
    assert await dts_admin("functions", "rollback", "mine/stats", second[:12]) == 0
    assert (await active(site))["deployed"] == second
    assert await dts_admin("functions", "pin", "mine/stats", first[:12]) == 0
    assert (await active(site))["pinned"] == first
    assert await dts_admin("functions", "pin", "mine/stats", "--off") == 0
    assert await dts_admin("-y", "functions", "undeploy", "mine/stats") == 0
    after = await active(site)
    assert (after["deployed"], after["pinned"]) == ("", "")


@pytest.mark.parametrize(
    ("text", "said_of_it"),
    [
        ("def main(line): return 1\ndef self_test(): assert main('') == 2, 'it is two'\n", "it is two"),
        ("def main(line): return 1\ndef self_test(): return False\n", "returned False"),
        ("async def self_test(): raise OSError('no net')\ndef main(line): return 1\n", "no net"),
        ("import nonsense_that_is_nowhere\ndef main(line): return 1\n", "nonsense_that_is_nowhere"),
        ("raise SystemExit('at import')\ndef main(line): return 1\n", "at import"),
        ("import os\ndef main(line): return 1\ndef self_test(): os._exit(7)\n", "does not pass"),
        (
            "import os, signal\ndef main(line): 1\ndef self_test(): os.kill(os.getpid(), signal.SIGSEGV)\n",
            "does not pass",
        ),
        ("def main(line) return 1\n", "line 1: it is not valid Python"),
        ("def man(line): return 1\n", "no main"),
    ],
)
async def test_what_does_not_pass_never_reaches_the_server(
    site: Site, dts_admin: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, said_of_it: str
) -> None:
    (tmp_path / "stats.py").write_text(text)
    assert await dts_admin("functions", "deploy", "text/stats", str(tmp_path / "stats.py")) != 0
    assert said_of_it in capsys.readouterr().err
    assert await site.api().call("GET", "/admin/functions/?namespace=text&description=stats") == []


async def test_a_self_test_that_never_ends_is_stopped() -> None:
    source = {"stats.py": SourceFile(b"import time\ndef main(x): 1\ndef self_test(): time.sleep(10**6)\n")}
    with pytest.raises(InvalidInput, match=r"more than 0\.5 s"):
        await try_out(source, "text/stats", timeout=0.5)


async def test_what_is_required_and_not_installed_here_is_left_to_the_hosts() -> None:
    source = {
        "stats.py": SourceFile(b"import nonsense_that_is_nowhere\ndef main(x): 1\n"),
        "requirements.txt": SourceFile(b"nonsense-that-is-nowhere\n"),
    }
    assert "not tested on this machine" in await try_out(source, "text/stats")


def test_a_folder_is_read_without_caches_and_hidden_files(tmp_path: Path) -> None:
    path = tmp_path / "stats"
    folder(path, main="main = print", words=WORDS)
    for name in (".git/config", "__pycache__/x.pyc", "venv/pyvenv.cfg", ".env", "env/pyvenv.cfg", "words.py~"):
        (path / name).parent.mkdir(exist_ok=True)
        (path / name).write_text("secret")
    (path / "data").mkdir()
    (path / "data/list.txt").write_text("x")
    (path / "tool").write_text("#!/bin/sh")
    (path / "tool").chmod(0o755)
    (path / "again.py").symlink_to("words.py")
    source = read_source(path, "text/stats")
    assert sorted(source) == ["again.py", "data/list.txt", "stats.py", "tool", "words.py"]
    assert source["tool"].executable
    assert source["again.py"].data == WORDS.encode()


@pytest.mark.parametrize("kind", ["file", "folder", "fifo", "dangling", "newline"])
def test_what_is_no_part_of_the_folder_is_refused(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "stats"
    folder(path, main="main = print")
    (tmp_path / "secret").write_text("key")
    {
        "file": lambda: (path / "link").symlink_to(tmp_path / "secret"),
        "folder": lambda: (path / "link").symlink_to("/etc"),
        "fifo": lambda: os.mkfifo(path / "pipe"),
        "dangling": lambda: (path / "link").symlink_to("nowhere"),
        "newline": lambda: (path / "a\nb.py").write_text(""),
    }[kind]()
    with pytest.raises(InvalidInput):
        read_source(path, "text/stats")


def test_what_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="cannot be read"):
        read_source(tmp_path / "none", "text/stats")
    with pytest.raises(InvalidInput, match=r"begins in a file stats\.py"):
        read_source(Path(folder(tmp_path / "other", other="main = 1")), "text/stats")
