"""The wheel, installed elsewhere: its commands work from any folder, and `dts init` makes a folder to run from."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from dts.scaffold import main
from tests.services.deployment import ROOT, Deployment, rows


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", str(folder), str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return next(folder.glob("*.whl"))


def test_the_wheel_has_every_settings_file_and_command(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        commands = archive.read(next(name for name in names if name.endswith("entry_points.txt"))).decode()
    for path in (ROOT / "etc").rglob("*.toml"):
        assert f"dts/etc/{path.relative_to(ROOT / 'etc')}" in names
    assert {"dts/py.typed", "dts/server/static/docs.html", "dts/worker/functions/text/upper.py"} <= names
    for command in ("dts", "dts-server", "dts-worker", "dts-daemons", "dts-client", "dts-admin"):
        assert f"{command} = " in commands


def test_a_folder_made_by_init_runs(embedded: Deployment, tmp_path: Path) -> None:
    done = embedded.run("dts", "init", ".")
    assert done.returncode == 0, done.stderr
    embedded.start("dts", "dts", "--port", str(embedded.port), "-c", "etc/worker.toml")
    embedded.wait_ready("dts")
    (tmp_path / "in.txt").write_text("Ada\n")
    done = embedded.run_client("own/hello", tmp_path / "in.txt", tmp_path / "out.json")
    assert done.returncode == 0, done.stderr
    assert rows(tmp_path / "out.json")[0]["result"] == "Hello, Ada!"


def test_init_keeps_what_is_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/worker.toml").write_text("# mine\n")
    assert main([str(tmp_path)]) == 0
    assert (tmp_path / "etc/worker.toml").read_text() == "# mine\n"
    assert "kept" in capsys.readouterr().err


def test_init_names_the_file_that_it_cannot_write(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "taken").write_text("")
    assert main([str(tmp_path / "taken")]) == 1
    assert "cannot write" in capsys.readouterr().err
