"""The wheel, installed elsewhere: its commands work from any folder, and `dts init` makes a folder to run from."""

from __future__ import annotations

import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from dts.scaffold import main
from tests.services.deployment import ROOT, Deployment, rows


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(ROOT, tmp_path_factory.mktemp("wheel"))


def build(source: Path, folder: Path) -> Path:
    """Build a wheel without a network."""
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", folder, source]
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


def test_the_client_alone_needs_neither_the_servers_nor_the_workers_packages(tmp_path: Path) -> None:
    with zipfile.ZipFile(build(ROOT / "packaging" / "client", tmp_path)) as archive:
        archive.extractall(tmp_path / "site")
        metadata = archive.read(next(name for name in archive.namelist() if name.endswith("METADATA"))).decode()
    needed = set(re.findall(r"^Requires-Dist: ([\w-]+)", metadata, re.MULTILINE))
    assert not needed & {"motor", "aioamqp", "asyncssh", "aiosmtplib", "cryptography", "psutil", "cronsim"}
    # The modules that both commands import are among those of the packages that are asked for.
    script = (
        "import sys, dts.client.cli, dts.client.simple, dts.management.admin; print(dts.client.__file__);"
        "from importlib.metadata import packages_distributions; of = packages_distributions();"
        "print(*{d for m in list(sys.modules) for d in of.get(m.partition('.')[0], ())})"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=tmp_path,
        env={"PYTHONPATH": str(tmp_path / "site")},
        capture_output=True,
        text=True,
        check=True,
    )
    place, distributions = done.stdout.splitlines()
    assert place.startswith(str(tmp_path))
    below = {"wcwidth", "typing_extensions", "pygments", "markdown-it-py", "mdurl"}  # of those that are needed
    own = {each for each in distributions.split() if not each.startswith(("dts", "pip", "setuptools"))}
    assert own - below <= needed


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
