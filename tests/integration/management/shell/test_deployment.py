"""`functions deploy` and its like: from a folder to what new jobs run."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import pytest

from dts.errors import InvalidInput
from dts.management.deployment.folder import read_source
from dts.management.deployment.self_test import try_out
from dts.wire.archive import SourceFile
from tests.integration.conftest import Site
from tests.integration.management.shell.conftest import Run, said
from tests.integration.management.shell.test_ssh import add
from tests.services.sshd import SshServer

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


async def test_a_version_is_pushed_to_a_group_and_its_state_shown(
    site: Site, dts_admin: Run, ssh_server: SshServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    python = ssh_server.home / "dts/current/bin/python"
    python.parent.mkdir(parents=True)
    python.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)
    for host in ("w1", "w2"):
        assert await add(dts_admin, ssh_server, host, "groups=gpu") == 0
    path = folder(tmp_path / "stats", main=GOOD, words=WORDS)
    capsys.readouterr()
    assert await dts_admin("functions", "deploy", "mine/stats", path, "--to", "group=gpu", "--canary", "w2") == 0
    captured = capsys.readouterr()
    assert captured.err.index("w2: done") < captured.err.index("w1: done")
    version = (await active(site))["deployed"]
    assert (ssh_server.home / "dts/var/versions" / version / "functions/mine/stats.py").exists()
    assert await dts_admin("--json", "functions", "hosts", "mine/stats") == 0
    assert [(row["host"], row["state"], row["version"]) for row in said(capsys)] == [
        ("w1", "done", version),
        ("w2", "done", version),
    ]
    # a version that passes here and not on the hosts: new jobs go on with the one before
    picky = GOOD.replace("assert main('a b') == 2", "assert 'DTS_TEST_HOST' not in __import__('os').environ")
    folder(tmp_path / "stats", main=picky)
    assert await dts_admin("functions", "deploy", "mine/stats", path, "--to", "host=w1,w2", "--canary", "w1") == 1
    captured = capsys.readouterr()
    assert "w1: failed" in captured.err
    assert "is not active" in captured.err
    assert (await active(site))["deployed"] == version
    for wrong in (("--to", "gpu"), ("--canary", "w1"), ("--to", "group=none"), ("--to", "host=-oProxyCommand=id")):
        assert await dts_admin("functions", "deploy", "mine/stats", path, "--no-test", *wrong) != 0


async def test_the_plugin_pushes_a_version_that_the_server_has(
    site: Site, dts_admin: Run, ssh_server: SshServer, tmp_path: Path
) -> None:
    assert await add(dts_admin, ssh_server, "w1") == 0
    path = folder(tmp_path / "stats", main=GOOD, words=WORDS)
    assert await dts_admin("functions", "deploy", "mine/stats", path) == 0
    version = (await active(site))["deployed"]
    api = site.api()
    params = {"function": "server/deploy", "args": ["mine/stats", version[:12]], "kwargs": {"hosts": ["w1"]}}
    job = await api.call("POST", "/jobs/", params, status=201)
    done = await api.call("GET", f"/jobs/{job}?wait=30")
    while done["state"] not in ("succeeded", "failed"):
        done = await api.call("GET", f"/jobs/{job}?wait=30")
    assert done["result"]["state"] == "failed"
    assert "vhosts init" in done["result"]["hosts"]["w1"]["error"]
    entries = await api.call("GET", "/admin/operations/?op_type=functions.rollout")
    assert entries[0]["ops"] == {"version": version, "hosts": ["w1"], "canary": ""}
