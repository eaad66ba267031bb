"""How the loader takes files that are replaced, written in pieces, or come and go, and which modules a function has."""

from __future__ import annotations

import pickle
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from dts.errors import FunctionMissing
from dts.worker.child.code import loader as module
from dts.worker.child.code.sources import Sources
from tests.services.fresh_loader import Fresh
from tests.services.waiting import PATIENCE, wait_until

LAZY = "import importlib\ndef main(n): return importlib.import_module('.' + n, __package__).V\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "own").mkdir()
    return tmp_path / "own"


@pytest.fixture
def loader(folder: Path) -> Iterator[Fresh]:
    with Fresh(folder.parent) as loader:
        yield loader


@pytest.fixture
def quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    """Do not wait for more of a file for longer than the clock takes."""
    monkeypatch.setattr(module, "_QUIET_NS", 100_000_000)


def settle() -> None:
    """Wait until a change counts, where that is quick."""
    time.sleep(0.13)


def load_until(loader: Fresh, name: str, writer: Callable[[], None], wanted: object) -> list[object]:
    """What the function returns, again and again, while its file is written and until it returns what is wanted."""
    thread = threading.Thread(target=writer)
    thread.start()
    came: list[object] = []
    until = time.monotonic() + PATIENCE
    while wanted not in came and time.monotonic() < until:
        value = loader.load(name).main()
        if value not in came:
            came.append(value)
        time.sleep(0.001)
    thread.join()
    return came


# replacing a file


@pytest.mark.parametrize("takes_away", [Path.unlink, lambda path: path.rename(path.with_name("f.py~"))])
def test_a_file_that_is_gone_for_a_moment_while_it_is_replaced_fails_nothing(
    loader: Fresh, folder: Path, takes_away: Callable[[Path], object]
) -> None:
    path = folder / "f.py"
    path.write_text("def main(): return 1")
    assert loader.load("own/f").main() == 1

    def replace() -> None:
        takes_away(path)
        time.sleep(0.3)
        path.write_text("def main(): return 2")

    assert load_until(loader, "own/f", replace, 2) == [1, 2]


@pytest.mark.parametrize("name", ["f.py", "h.py"])
def test_a_file_that_is_there_again_just_after_the_look_is_awaited(
    loader: Fresh, folder: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    (folder / "h.py").write_text("V = 1")
    (folder / "f.py").write_text("from . import h\ndef main(): return h.V")
    first = loader.load("own/f")
    real = Sources.look_again
    data = (folder / name).read_bytes()

    def look(sources: Sources) -> Sources:
        seen = real(sources)
        (folder / name).write_bytes(data)
        return seen

    monkeypatch.setattr(Sources, "look_again", look)
    (folder / name).unlink()
    assert loader.load("own/f") is first


def test_a_helper_that_is_gone_for_a_moment_fails_nothing(loader: Fresh, folder: Path) -> None:
    (folder / "h.py").write_text("V = 1")
    (folder / "f.py").write_text("from . import h\ndef main(): return h.V")
    assert loader.load("own/f").main() == 1

    def replace() -> None:
        (folder / "h.py").unlink()
        time.sleep(0.3)
        (folder / "h.py").write_text("V = 2")

    assert load_until(loader, "own/f", replace, 2) == [1, 2]


def test_a_child_that_has_never_loaded_a_file_waits_for_one_that_is_being_replaced(loader: Fresh, folder: Path) -> None:
    (folder / "f.py").write_text("def main(): return 1")
    (folder / "f.py").unlink()
    writer = threading.Timer(0.3, (folder / "f.py").write_text, ["def main(): return 2"])
    writer.start()
    assert loader.load("own/f").main() == 2
    writer.join()


def test_a_file_that_was_not_there_for_long_is_not_waited_for(
    loader: Fresh, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    time.sleep(1.0)

    def fail(seconds: float) -> None:
        pytest.fail(f"it waits {seconds} s")

    monkeypatch.setattr(module.time, "sleep", fail)
    with pytest.raises(FunctionMissing):
        loader.load("own/f")


# files that are written in pieces, and closed between them


def write_in_pieces(path: Path) -> None:
    """A quarter of a second between the pieces, longer than the clock takes; the first ones run and are not whole."""
    path.write_text("def main(): return 'half'\n")
    for _ in range(4):
        time.sleep(0.25)
        with path.open("a") as file:
            file.write("# more\n")
    with path.open("a") as file:
        file.write("def main(): return 'whole'\n")


def test_a_file_that_is_appended_to_is_not_used_before_it_is_quiet(loader: Fresh, folder: Path) -> None:
    path = folder / "f.py"
    path.write_text("def main(): return 'old'")
    loader.load("own/f")
    assert load_until(loader, "own/f", lambda: write_in_pieces(path), "whole") == ["old", "whole"]


def test_a_child_without_a_version_waits_for_a_file_while_it_sees_it_change(loader: Fresh, folder: Path) -> None:
    path = folder / "f.py"

    def write() -> None:
        path.write_text("def main(): return 'half'\n")
        for _ in range(30):
            time.sleep(0.05)
            with path.open("a") as file:
                file.write("# more\n")
        with path.open("a") as file:
            file.write("def main(): return 'whole'\n")

    thread = threading.Thread(target=write)
    thread.start()
    while not path.exists():
        time.sleep(0.001)
    assert loader.load("own/f").main() == "whole"
    thread.join()


def test_what_changes_for_ever_is_used_as_it_is_in_the_end(
    loader: Fresh, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PATIENCE", 0.5)
    path, stop = folder / "f.py", threading.Event()
    path.write_text("def main(): return 1\n")
    loader.load("own/f")

    def write() -> None:
        path.write_text("def main(): return 2\n")
        while not stop.wait(0.02):
            with path.open("a") as file:
                file.write("# more\n")

    thread = threading.Thread(target=write)
    thread.start()
    wait_until(lambda: loader.load("own/f").main() == 2, "the file to be loaded while it changes")
    stop.set()
    thread.join()


# which modules a function has


def test_a_helper_that_two_functions_import_late_is_new_for_both(loader: Fresh, folder: Path, quickly: None) -> None:
    (folder / "h.py").write_text("V = 1")
    for name in ("x", "y"):
        (folder / f"{name}.py").write_text(LAZY)
    assert [loader.load(name).main("h") for name in ("own/x", "own/y")] == [1, 1]
    (folder / "h.py").write_text("V = 2")
    settle()
    assert [loader.load(name).main("h") for name in ("own/y", "own/x", "own/y")] == [2, 2, 2]


def test_the_version_covers_what_was_imported_late(loader: Fresh, folder: Path, quickly: None) -> None:
    (folder / "h.py").write_text("from . import deeper\nV = 1")
    (folder / "deeper.py").write_text("")
    (folder / "f.py").write_text(LAZY)
    before = loader.load("own/f")
    before.main("h")
    first = loader.load("own/f")
    assert first.main is before.main, "the function is the same"
    assert loader.load("own/f") is first
    (folder / "h.py").write_text("from . import deeper\nV = 2")
    settle()
    second = loader.load("own/f")
    assert second.main("h") == 2
    second = loader.load("own/f")
    (folder / "deeper.py").write_text("W = 1")
    settle()
    assert loader.load("own/f").main("h") == 2
    third = loader.load("own/f")
    assert len({each.version for each in (before, first, second, third)}) == 4
    assert loader.replaced == 2


def test_functions_of_a_namespace_share_their_helpers_as_modules_of_a_package_do(loader: Fresh, folder: Path) -> None:
    (folder / "h.py").write_text("class E(Exception): pass\nN = []\n")
    (folder / "late.py").write_text("from .h import E\ndef call(): raise E\n")
    (folder / "f.py").write_text(
        "from . import h\n"
        "def main():\n"
        "    from .h import N\n"
        "    import dts.worker.functions.own.h as again\n"
        "    from .late import call\n"
        "    try: call()\n"
        "    except h.E: return h.N is N and h is again\n"
    )
    (folder / "g.py").write_text("from . import h\nfrom .h import E\ndef main(): h.N.append(1); return len(h.N)\n")
    f, g = loader.load("own/f"), loader.load("own/g")
    assert f.main()
    assert [g.main(), g.main()] == [1, 2]
    assert f.main.__globals__["h"] is g.main.__globals__["h"]
    assert pickle.loads(pickle.dumps(g.main.__globals__["E"])) is g.main.__globals__["E"]


def test_a_helper_that_is_imported_over_the_path_is_noticed_when_it_changes(
    loader: Fresh, folder: Path, quickly: None
) -> None:
    (folder / "aside.py").write_text("V = 1\n")
    (folder / "f.py").write_text(
        "import os, sys\nsys.dont_write_bytecode = True\nsys.path.insert(0, os.path.dirname(__file__))\n"
        "sys.modules.pop('aside', None)\nimport aside\ndel sys.path[0]\ndef main(): return aside.V\n"
    )
    settle()
    assert loader.load("own/f").main() == 1
    assert loader.load("own/f").main() == 1
    assert loader.replaced == 0
    (folder / "aside.py").write_text("V = 2\n")
    settle()
    assert loader.load("own/f").main() == 2
    assert loader.replaced == 1


@pytest.mark.parametrize("init", [None, ""])
def test_files_beside_a_function_are_resources_of_its_package(
    loader: Fresh, folder: Path, quickly: None, init: str | None
) -> None:
    if init is not None:
        (folder / "__init__.py").write_text(init)
    (folder / "words.txt").write_text("a b c")
    (folder / "f.py").write_text(
        "from importlib.resources import files\ndef main(): return (files(__package__) / 'words.txt').read_text()\n"
    )
    assert loader.load("own/f").main() == "a b c"


@pytest.mark.parametrize(
    ("code", "new"),
    [
        ("try:\n    from . import maybe as m\n    V = m.V\nexcept ImportError:\n    V = 'absent'\n", "maybe.py"),
        ("from . import h\nV = h.V\n", "h/__init__.py"),
        ("import sys\nV = getattr(sys.modules[__package__], 'V', 'absent')\n", "__init__.py"),
        ("try:\n    from .pack.deep import V\nexcept ImportError:\n    V = 'absent'\n", "pack/deep.py"),
        (
            "import importlib\n"
            "try:\n    V = importlib.import_module('.' + 'may' + 'be', __package__).V\n"
            "except ImportError:\n    V = 'absent'\n",
            "maybe.py",
        ),
    ],
)
def test_what_appears_later_is_found(loader: Fresh, folder: Path, quickly: None, code: str, new: str) -> None:
    (folder / "h.py").write_text("V = 'absent'\n")
    (folder / "f.py").write_text(f"{code}\ndef main(): return V\n")
    settle()
    assert loader.load("own/f").main() == "absent"
    settle()
    (folder / new).parent.mkdir(exist_ok=True)
    (folder / new).write_text("V = 'present'\n")
    settle()
    assert loader.load("own/f").main() == "present"
    (folder / "unrelated.py").write_text("")
    assert loader.load("own/f") is loader.load("own/f")


def test_a_helper_that_comes_while_the_function_runs_is_imported_from_its_source(
    loader: Fresh, folder: Path, quickly: None
) -> None:
    (folder / "f.py").write_text("def main():\n    from . import late\n    return late.V\n")
    main = loader.load("own/f").main
    with pytest.raises(ImportError):
        main()
    (folder / "late.py").write_text("V = 1\n")
    assert main() == 1
    assert not (folder / "__pycache__").exists()
    settle()
    (folder / "late.py").write_text("V = 2\n")
    settle()
    assert loader.load("own/f").main() == 2
