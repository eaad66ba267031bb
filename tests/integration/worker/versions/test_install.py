"""What a host does with a version that was pushed to it, and what is left of that when it is killed at any step."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from dts.wire.archive import SourceFile, pack, version_of
from dts.worker.versions import install

SOURCE = {
    "stats.py": SourceFile(b"from . import words\ndef main(x): return words.A\ndef self_test(): assert main(0) == 1\n"),
    "words.py": SourceFile(b"A = 1\n"),
}
VERSION = version_of(SOURCE)

DYING = """
import os, signal, sys
from dts.worker.versions import install
left, real = int(sys.argv[1]), {}
def dying(name):
    real[name] = getattr(os, name)
    def call(*arguments, **named):
        global left
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return real[name](*arguments, **named)
    setattr(os, name, call)
for name in ("open", "fsync", "fchmod", "mkdir", "rename", "symlink"):
    dying(name)
sys.exit(install.main(sys.argv[2:]))
"""
"""Installs, and is killed at the call of that number that changes the disk."""


def pushed(folder: Path, archive: bytes | None = None) -> list[str]:
    """What the server calls the host's DTS with, once the archive is there."""
    folder.mkdir(exist_ok=True)
    (folder / "archive.zip").write_bytes(pack(SOURCE) if archive is None else archive)
    return [str(folder / "versions"), "text/stats", VERSION, str(folder / "archive.zip")]


def is_whole(folder: Path) -> bool:
    place = folder / "versions" / VERSION / "functions/text"
    return {path.name: path.read_bytes() for path in place.glob("*.py")} == {
        name: file.data for name, file in SOURCE.items()
    }


def test_a_version_is_there_as_a_whole_or_not_at_all_wherever_its_installation_is_killed(tmp_path: Path) -> None:
    for number in range(1, 200):
        folder = tmp_path / str(number)
        arguments = pushed(folder)
        died = subprocess.run([sys.executable, "-c", DYING, str(number), *arguments], check=False).returncode
        assert (folder / "versions" / VERSION).exists() == is_whole(folder)
        link = folder / "versions/current/text/stats"
        assert not link.is_symlink() or is_whole(folder)
        if died == 0:
            break
        assert died == -signal.SIGKILL
        if number % 4 == 0:  # again, which completes what was begun
            assert install.main(arguments) == 0
            assert is_whole(folder)
    assert number > 10  # there were as many steps to die at
    assert link.resolve() == (folder / "versions" / VERSION).resolve()


def test_the_same_files_are_tried_out_for_each_function_that_they_are(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = {
        "one.py": SourceFile(b"def main(x): return x\n"),
        "two.py": SourceFile(
            b"def main(x): return x\ndef self_test(): assert __package__.endswith('.a'), 'not here'\n"
        ),
    }
    arguments = pushed(tmp_path, pack(source))
    versions, arguments[2] = Path(arguments[0]), version_of(source)
    ended = {}
    for function in ("a/one", "b/one", "a/two", "b/two"):
        arguments[1] = function
        ended[function] = install.main(arguments)
        assert (versions / "current" / function).exists() == (ended[function] == 0)
    assert ended == {"a/one": 0, "b/one": 0, "a/two": 0, "b/two": 1}
    assert "not here" in capsys.readouterr().err
    assert sorted(path.name for path in (versions / arguments[2] / "functions").iterdir()) == ["a", "b"]


def times(folder: Path) -> list[tuple[Path, int]]:
    """The files of the version, and when they were written."""
    return sorted((path, path.stat().st_mtime_ns) for path in (folder / "versions" / VERSION).rglob("*.py"))


def test_a_repeat_changes_nothing(tmp_path: Path) -> None:
    arguments = pushed(tmp_path)
    assert install.main(arguments) == 0
    before = times(tmp_path)
    assert install.main(arguments) == 0
    assert times(tmp_path) == before


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ({"stats.py": SourceFile(b"def main(x): return 1\n")}, "another hash"),
        ({"stats.py": SourceFile(b"def main(x): return 1\ndef self_test(): assert False, 'no good'\n")}, "no good"),
        ({"stats.py": SourceFile(b"import nowhere_at_all\ndef main(x): return 1\n")}, "nowhere_at_all"),
    ],
)
def test_what_is_no_good_gets_no_place(
    tmp_path: Path, source: dict[str, SourceFile], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = pushed(tmp_path, pack(source))
    if said != "another hash":
        arguments[2] = version_of(source)
    assert install.main(arguments) == 1
    assert said in capsys.readouterr().err
    assert not (tmp_path / "versions" / arguments[2]).exists()


@pytest.mark.parametrize("version", ["../../etc", "$(id)", "0" * 63, "-rf"])
def test_what_is_no_version_is_refused(tmp_path: Path, version: str, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = pushed(tmp_path)
    arguments[2] = version
    assert install.main(arguments) == 1
    assert "is not a version" in capsys.readouterr().err
    assert not (tmp_path / "versions").exists()
