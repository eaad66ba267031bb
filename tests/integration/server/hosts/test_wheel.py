"""The wheel that a server makes of its own files."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from io import BytesIO
from pathlib import Path

import dts
from dts.server.hosts.wheel import own_wheel
from dts.version import __version__


def test_pip_installs_it_with_every_file(tmp_path: Path) -> None:
    wheel = own_wheel()
    (tmp_path / wheel.name).write_bytes(wheel.body)
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", "there"]
    subprocess.run([*pip, wheel.name], cwd=tmp_path, check=True)
    own = {path.relative_to(Path(dts.__file__).parent) for path in Path(dts.__file__).parent.rglob("*.py")}
    there = tmp_path / "there/dts"
    assert {path.relative_to(there) for path in there.rglob("*.py")} == own
    for name in ("etc/worker.toml", "py.typed", "wire/dts.proto"):
        assert (there / name).exists()
    shown = subprocess.run(
        [sys.executable, "-c", "import dts.version; print(dts.version.__file__, dts.version.__version__)"],
        cwd=tmp_path / "there",
        env={"PYTHONPATH": str(tmp_path / "there")},
        capture_output=True,
        text=True,
        check=True,
    )
    assert shown.stdout.split() == [str(there / "version.py"), __version__]


def test_the_same_files_make_the_same_wheel() -> None:
    wheel = own_wheel()
    own_wheel.cache_clear()
    assert own_wheel().digest == wheel.digest


def test_it_names_what_it_needs_in_the_versions_of_the_server() -> None:
    pinned = dict(line.split("==") for line in own_wheel().constraints.splitlines())
    assert {"tornado", "motor", "pymongo", "asyncssh", "msgspec"} <= pinned.keys()
    assert "pytest" not in pinned
    names = zipfile.ZipFile(BytesIO(own_wheel().body)).namelist()
    assert not [name for name in names if "__pycache__" in name]
