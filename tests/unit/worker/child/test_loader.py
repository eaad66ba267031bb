"""The loader: which file a name means, what is wrong with it, and that a changed file is noticed."""

from __future__ import annotations

import errno
import fcntl
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from dts.errors import FunctionMissing, ImportFailed, InvalidName, MainMissing
from dts.worker.attempt.failure import describe_ours
from dts.worker.child.code import loader as module
from dts.worker.child.code import sources
from dts.worker.child.code.loader import BUNDLED, dynamic_load
from dts.worker.child.code.writers import is_open_for_writing
from tests.services.fresh_loader import Fresh


@pytest.fixture(autouse=True)
def quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait half a second, not five, for the rest of a file that is no good, and for others as long as clocks take."""
    monkeypatch.setattr(module, "_MENDED_NS", 500_000_000)
    monkeypatch.setattr(module, "_QUIET_NS", 100_000_000)


@pytest.fixture
def loader(tmp_path: Path) -> Iterator[Fresh]:
    with Fresh(tmp_path) as loader:
        yield loader


def write(directory: Path, name: str, code: str) -> Path:
    """Put a module there the way a deployment does: written beside, then renamed."""
    path = directory / name
    path.parent.mkdir(exist_ok=True)
    beside = path.with_suffix(".new")
    beside.write_text(code)
    beside.rename(path)
    return path


def settle() -> None:
    """Wait until a change is old enough to count."""
    time.sleep(0.12)


def test_the_functions_in_run() -> None:
    assert dynamic_load("text/upper").main("straße") == "STRASSE"
    assert dynamic_load("text/reverse").main("abc") == "cba"
    assert dynamic_load("text/wordcount").main("to be  or") == {"words": 3, "characters": 9}
    assert dynamic_load("math/add").main(1, 2.5) == 3.5
    assert [dynamic_load("math/primes").main(n) for n in (0, 2, 10, 100)] == [0, 1, 4, 25]
    assert dynamic_load("demo/sleep").main(0) == 0
    with pytest.raises(ValueError, match="as asked"):
        dynamic_load("demo/fail").main(1)


def test_every_bundled_function_says_what_it_does() -> None:
    for file in BUNDLED.glob("*/[a-z]*.py"):
        loaded = dynamic_load(f"{file.parent.name}/{file.stem}")
        assert loaded.main.__doc__
        assert sys.modules.get(loaded.main.__module__) is None, "closed loaders leave nothing imported"


def test_async_functions_are_told_apart() -> None:
    assert dynamic_load("demo/asleep").is_async
    assert not dynamic_load("demo/sleep").is_async


ANSWERS_ALL = "class All:\n    def __getattr__(self, name): return All()\n    def __call__(self, *a): return 1\n"
LIES = "class All:\n    __class__ = functools.partial\n    func = property(lambda s: s)\n"


@pytest.mark.parametrize(
    ("code", "is_async", "is_generator"),
    [
        ("import xmlrpc.client\nmain = xmlrpc.client.ServerProxy('http://127.0.0.1:9').add", False, False),
        ("from unittest.mock import MagicMock\nmain = MagicMock()", False, False),
        ("from unittest.mock import AsyncMock\nmain = AsyncMock()", False, False),
        (ANSWERS_ALL + "main = All()", False, False),
        (f"import functools\n{LIES}    def __call__(self): return 1\nmain = All()", False, False),
        ("import functools\nasync def f(a): pass\nmain = functools.partial(functools.partial(f), 1)", True, False),
        ("class C:\n    async def __call__(self): yield\nmain = C()", True, True),
        ("class C:\n    @classmethod\n    def m(cls): yield\nmain = C.m", False, True),
        ("class C:\n    async def m(self): pass\nmain = C().m", True, False),
        ("main = len", False, False),
        ("class main:\n    pass", False, False),
    ],
)
def test_what_kind_main_is_can_be_told_of_any_callable(
    loader: Fresh, tmp_path: Path, code: str, *, is_async: bool, is_generator: bool
) -> None:
    write(tmp_path, "own/f.py", code)
    loaded = loader.load("own/f")
    assert (loaded.is_async, loaded.is_generator) == (is_async, is_generator)


def test_a_function_of_the_configured_directory_is_importable_as_one_of_ours(loader: Fresh, tmp_path: Path) -> None:
    write(tmp_path, "own/hello.py", "def main(name): return 'hello ' + name")
    loaded = loader.load("own/hello")
    assert loaded.main("you") == "hello you"
    assert loaded.main.__module__ == "dts.worker.functions.own.hello"
    assert "dts.worker.functions.own.hello" in sys.modules
    assert loader.load("text/upper").main("a") == "A", "bundled functions are there as well"


def test_a_folder_of_the_configured_directory_stands_before_the_bundled_one(loader: Fresh, tmp_path: Path) -> None:
    assert loader.load("text/upper").main("a") == "A"
    write(tmp_path, "text/upper.py", "def main(text): return 'mine'")
    settle()
    assert loader.load("text/upper").main("a") == "mine"
    with pytest.raises(FunctionMissing, match="text/reverse"):
        loader.load("text/reverse")


@pytest.mark.parametrize("name", ["", "upper", "text/", "/upper", "../x/y", "text/../upper", "Text/upper", "os/.x"])
def test_a_name_that_no_function_can_have_is_never_loaded(loader: Fresh, name: str) -> None:
    with pytest.raises(InvalidName):
        loader.load(name)


def test_missing_and_broken_are_different_errors(loader: Fresh, tmp_path: Path) -> None:
    with pytest.raises(FunctionMissing, match="own/gone"):
        loader.load("own/gone")
    write(tmp_path, "own/needs.py", "import not_installed_anywhere")
    with pytest.raises(ImportFailed, match=r"ModuleNotFoundError.*not_installed_anywhere") as caught:
        loader.load("own/needs")
    assert isinstance(caught.value.__cause__, ModuleNotFoundError)
    write(tmp_path, "own/half.py", "def main(:")
    with pytest.raises(ImportFailed, match="SyntaxError"):
        loader.load("own/half")
    write(tmp_path, "own/quits.py", "import sys; sys.exit(3)")
    with pytest.raises(ImportFailed, match="SystemExit"):
        loader.load("own/quits")
    write(tmp_path, "own/empty.py", "main = 3")
    with pytest.raises(MainMissing, match="own/empty"):
        loader.load("own/empty")


def test_a_broken_file_that_is_mended_loads(loader: Fresh, tmp_path: Path) -> None:
    write(tmp_path, "own/half.py", "def main(:")
    with pytest.raises(ImportFailed):
        loader.load("own/half")
    write(tmp_path, "own/half.py", "def main(): return 1")
    assert loader.load("own/half").main() == 1


def test_a_changed_file_is_loaded_again_with_another_version(loader: Fresh, tmp_path: Path) -> None:
    write(tmp_path, "own/f.py", "def main(): return 1")
    first = loader.load("own/f")
    assert loader.load("own/f") is first
    write(tmp_path, "own/f.py", "def main(): return 2")
    settle()
    second = loader.load("own/f")
    assert (first.main(), second.main()) == (1, 2)
    assert first.version != second.version
    write(tmp_path, "own/f.py", "def main(): return 1")
    settle()
    assert loader.load("own/f").version == first.version


def test_a_change_of_the_same_size_within_the_same_clock_tick_is_noticed(loader: Fresh, tmp_path: Path) -> None:
    path = write(tmp_path, "own/f.py", "def main(): return 1")
    status = path.stat()
    assert loader.load("own/f").main() == 1
    with path.open("r+") as file:  # in place: even the inode stays
        file.write("def main(): return 2")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    settle()
    assert loader.load("own/f").main() == 2


def test_a_touched_file_is_not_loaded_again(loader: Fresh, tmp_path: Path) -> None:
    path = write(tmp_path, "own/f.py", "def main(): return 1")
    first = loader.load("own/f")
    os.utime(path, (1, 1))
    assert loader.load("own/f") is first


def test_a_deleted_file_is_missing_when_it_does_not_come_back(loader: Fresh, tmp_path: Path) -> None:
    path = write(tmp_path, "own/f.py", "def main(): return 1")
    first = loader.load("own/f")
    path.unlink()
    assert loader.load("own/f") is first
    time.sleep(0.5)
    with pytest.raises(FunctionMissing):
        loader.load("own/f")
    write(tmp_path, "own/f.py", "def main(): return 2")
    assert loader.load("own/f").main() == 2


def test_a_deleted_file_that_nobody_has_asked_for_lately_is_missing_at_once(loader: Fresh, tmp_path: Path) -> None:
    path = write(tmp_path, "own/f.py", "def main(): return 1")
    loader.load("own/f")
    path.unlink()
    time.sleep(0.55)
    with pytest.raises(FunctionMissing):
        loader.load("own/f")


@pytest.mark.parametrize(
    "statement",
    [
        "from dts.worker.functions.own import helper",
        "from dts.worker.functions.own.helper import value; import dts.worker.functions.own.helper as helper",
        "from . import helper",
        "import dts.worker.functions.own.between as b; helper = b.helper",
        "import importlib; helper = importlib.import_module('.helper', __package__)",
        "from importlib import import_module as get; helper = get(f'{__package__}.{\"helper\"}')",
    ],
)
def test_a_changed_helper_module_counts_as_a_change(loader: Fresh, tmp_path: Path, statement: str) -> None:
    write(tmp_path, "own/helper.py", "value = 1")
    write(tmp_path, "own/between.py", "from . import helper")
    write(tmp_path, "own/f.py", f"{statement}\ndef main(): return helper.value")
    write(tmp_path, "own/other.py", "def main(): return 0")
    first, other = loader.load("own/f"), loader.load("own/other")
    write(tmp_path, "own/helper.py", "value = 2")
    settle()
    second = loader.load("own/f")
    assert (first.main(), second.main()) == (1, 2)
    assert first.version != second.version
    assert loader.load("own/other").version == other.version, "that of a function that does not import it is the same"


def test_no_cache_files_are_written_beside_functions(loader: Fresh, tmp_path: Path) -> None:
    write(tmp_path, "own/f.py", "def main(): return 1")
    loader.load("own/f")
    assert [path.name for path in (tmp_path / "own").iterdir()] == ["f.py"]


@pytest.mark.parametrize("pieces", [["", "def main(): return 2"], ["", "import os\ndef main(", "): return 2"]])
def test_a_file_that_is_written_in_place_is_never_loaded_half(loader: Fresh, tmp_path: Path, pieces: list[str]) -> None:
    path = write(tmp_path, "own/f.py", "def main(): return 1")
    assert loader.load("own/f").main() == 1

    def rewrite() -> None:
        with path.open("w") as file:
            for piece in pieces:
                file.write(piece)
                file.flush()
                time.sleep(0.05)

    writer = threading.Thread(target=rewrite)
    writer.start()
    came = []
    while writer.is_alive() or came[-1] != 2:
        came.append(loader.load("own/f").main())
        time.sleep(0.001)
    writer.join()
    assert came == sorted(came), "first the old one, then the new one"
    assert came[0] == 1
    assert came[-1] == 2


def test_a_file_that_is_being_written_is_waited_for_if_nothing_was_loaded_before(loader: Fresh, tmp_path: Path) -> None:
    path = write(tmp_path, "own/f.py", "")
    writer = threading.Timer(0.05, path.write_text, ["def main(): return 1"])
    writer.start()
    assert loader.load("own/f").main() == 1
    writer.join()


def test_a_file_that_does_not_compile_may_be_mended_for_a_while(loader: Fresh, tmp_path: Path) -> None:
    path = write(tmp_path, "own/f.py", "def main(): return 1")
    loader.load("own/f")
    path.write_text("def main(")
    settle()
    assert loader.load("own/f").main() == 1
    time.sleep(0.45)
    with pytest.raises(ImportFailed, match="SyntaxError"):
        loader.load("own/f")


def test_a_new_file_that_does_not_compile_is_waited_for(loader: Fresh, tmp_path: Path) -> None:
    path = write(tmp_path, "own/f.py", "def main(")
    writer = threading.Timer(0.2, path.write_text, ["def main(): return 1"])
    writer.start()
    assert loader.load("own/f").main() == 1
    writer.join()


HALF = "def main(): return helper()\n"  # compiles, and fails with a NameError


def test_a_file_is_not_read_while_somebody_may_write_more_of_it(loader: Fresh, tmp_path: Path) -> None:
    path = write(tmp_path, "own/f.py", "def main(): return 1")
    assert loader.load("own/f").main() == 1
    with path.open("w") as file:
        file.write(HALF)
        file.flush()
        time.sleep(0.6)
        assert loader.load("own/f").main() == 1, "long after it has changed"
        file.write("def helper(): return 2\n")
    settle()
    assert loader.load("own/f").main() == 2


def test_a_new_file_is_waited_for_until_it_is_closed(loader: Fresh, tmp_path: Path) -> None:
    (tmp_path / "own").mkdir()
    command = f"(echo '{HALF}'; sleep 0.4; echo 'def helper(): return 2') > {tmp_path}/own/f.py"
    with subprocess.Popen(["sh", "-c", command]):
        while not (tmp_path / "own/f.py").exists():
            time.sleep(0.01)
        assert loader.load("own/f").main() == 2


def test_what_remains_open_for_writing_is_never_run(
    loader: Fresh, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PATIENCE", 0.3)
    path = write(tmp_path, "own/f.py", "def main(): return 1")
    with path.open("a"), pytest.raises(ImportFailed, match="open for writing: copy a file beside it and rename"):
        loader.load("own/f")
    assert loader.load("own/f").main() == 1


def test_writers_are_found_where_the_kernel_grants_no_leases(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path, "own/f.py", "def main(): return 1")
    real = fcntl.fcntl

    def refuse(descriptor: int, command: int, argument: int = 0) -> int:
        if command == fcntl.F_SETLEASE:
            raise PermissionError(errno.EACCES, "not yours")
        return real(descriptor, command, argument)

    monkeypatch.setattr(fcntl, "fcntl", refuse)
    assert not is_open_for_writing(path)
    with path.open():
        assert not is_open_for_writing(path)
    with path.open("a"):
        assert is_open_for_writing(path)


def test_an_unchanged_function_costs_a_look_at_the_status_of_its_file(
    loader: Fresh, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, "own/f.py", "def main(): return 1")
    settle()
    loader.load("own/f")
    monkeypatch.setattr(sources, "read_source", pytest.fail)
    assert loader.load("own/f").main() == 1


def test_a_file_that_changes_all_the_time_is_used_after_a_while(loader: Fresh, tmp_path: Path) -> None:
    path = write(tmp_path, "own/f.py", "def main(): return 1")
    stop = threading.Event()

    def touch() -> None:
        while not stop.wait(0.02):
            path.touch()

    toucher = threading.Thread(target=touch)
    toucher.start()
    assert loader.load("own/f").main() == 1, "while it still changes"
    stop.set()
    toucher.join()


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("class Odd(Exception):\n def __str__(self): raise SystemExit\nraise Odd", "Odd: its message cannot be shown"),
        ("x = " + "(" * 5000 + ")" * 5000, "Error"),
        ("x = " + "-" * 100_000 + "1", "Error"),
        ("x = " + "1+" * 100_000 + "1", "RecursionError|MemoryError"),
    ],
)
def test_a_module_that_is_hard_to_read_or_to_report_fails_as_an_import(
    loader: Fresh, tmp_path: Path, code: str, said: str
) -> None:
    write(tmp_path, "own/f.py", code)
    with pytest.raises(ImportFailed, match=said) as caught:
        loader.load("own/f")
    assert describe_ours(caught.value).type == "ImportFailed"


def test_a_file_that_cannot_be_read_fails_as_an_import(loader: Fresh, tmp_path: Path) -> None:
    (tmp_path / "own").mkdir()
    (tmp_path / "own/f.py").symlink_to("/proc/self/mem")  # root may read everything else
    with pytest.raises(ImportFailed, match="own/f cannot be read"):
        loader.load("own/f")
