"""Archives of functions: the same files are the same version, and nothing else than plain files gets through."""

from __future__ import annotations

import io
import stat
import struct
import zipfile

import pytest

from dts.errors import InvalidInput, TooLarge
from dts.wire import archive
from dts.wire.archive import SourceFile, pack, unpack, version_of
from dts.wire.function_source import check_function_source


def zipped(*members: tuple[str, bytes], mode: int = 0o644 | stat.S_IFREG, level: int = 9) -> bytes:
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED, compresslevel=level) as made:
        for name, data in members:
            info = zipfile.ZipInfo(name)
            info.external_attr = mode << 16
            info.compress_type = zipfile.ZIP_DEFLATED
            made.writestr(info, data)
    return target.getvalue()


def test_files_come_back_as_they_went() -> None:
    source = {"stats.py": SourceFile(b"main = len\n"), "bin/tool": SourceFile(b"#!/bin/sh\n", executable=True)}
    assert unpack(pack(source)) == source


def test_a_version_is_named_by_its_files_and_not_by_how_they_are_packed() -> None:
    files = [("b.py", b"2" * 500), ("a.py", b"1" * 500)]
    packed = [zipped(*files), zipped(*reversed(files), level=1)]
    assert packed[0] != packed[1]
    assert version_of(unpack(packed[0])) == version_of(unpack(packed[1]))
    for other in ([("b.py", b"2"), files[1]], [("c.py", b"2" * 500), files[1]], files[:1]):
        assert version_of(unpack(zipped(*other))) != version_of(unpack(packed[0]))
    program = {name: SourceFile(data, executable=name == "a.py") for name, data in files}
    assert version_of(program) != version_of(unpack(packed[0]))


@pytest.mark.parametrize(
    "name",
    [
        *("../x.py", "a/../../x.py", "/etc/passwd", "a//b.py", "./a.py", "..", "a/../b/"),
        *("a\nb.py", "a\x1b[31m.py", "a\\b.py", "C:x.py", "\u202ea.py"),
        *("x" * 201, "a/" + "y" * 101),
    ],
)
def test_names_that_lead_elsewhere_are_refused(name: str) -> None:
    with pytest.raises(InvalidInput, match="cannot be part of a function"):
        unpack(zipped((name, b""), ("main.py", b"")))


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFBLK, stat.S_IFCHR, stat.S_IFIFO, stat.S_IFSOCK])
def test_links_and_devices_are_refused(kind: int) -> None:
    with pytest.raises(InvalidInput, match="only plain files"):
        unpack(zipped(("main.py", b"/etc/shadow"), mode=0o777 | kind))


def test_a_file_that_is_a_folder_too_is_refused() -> None:
    with pytest.raises(InvalidInput, match="as a file and as a folder"):
        unpack(zipped(("a", b""), ("a/b.py", b"")))


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_file_that_is_there_twice_is_refused() -> None:
    with pytest.raises(InvalidInput, match="twice"):
        unpack(zipped(("a.py", b"1"), ("a.py", b"2")))


def test_a_bomb_is_refused_before_it_is_inflated() -> None:
    with pytest.raises(TooLarge):
        unpack(zipped(("a.bin", bytes(archive.MAX_SOURCE + 1))))


def test_an_archive_that_announces_less_than_it_holds_is_refused() -> None:
    data = bytearray(zipped(("a.bin", bytes(1_000_000))))
    for mark, at in ((b"PK\x01\x02", 24), (b"PK\x03\x04", 22)):  # the uncompressed size in both of its headers
        struct.pack_into("<L", data, data.find(mark) + at, 10)
    with pytest.raises(InvalidInput, match="not a valid zip archive"):
        unpack(bytes(data))


def test_many_files_are_refused_by_the_list_of_them() -> None:
    with pytest.raises(TooLarge, match="2000"):
        unpack(zipped(*((f"{number}.py", b"") for number in range(archive.MAX_FILES + 1))))


@pytest.mark.parametrize(
    "damage", [b"", b"PK", b"not a zip" * 100, b"PK\x05\x06" + b"\xff" * 18, b"PK\x05\x06" + bytes(17)]
)
def test_what_is_no_archive_is_refused(damage: bytes) -> None:
    with pytest.raises(InvalidInput):
        unpack(damage)


def test_any_byte_that_was_changed_gives_other_files_or_a_refusal() -> None:
    good = zipped(("stats.py", b"def main(x):\n    return x\n" * 20))
    version = version_of(unpack(good))
    for at in range(len(good)):
        data = bytearray(good)
        data[at] ^= 0xFF
        try:
            found = unpack(bytes(data))
        except InvalidInput:
            continue
        assert version_of(found) != version or found == unpack(good)


@pytest.mark.parametrize(
    "text",
    [
        "def main(x): return x",
        "async def main(x): return x",
        "def main_many(items): return items",
        "class main: pass",
        "main = print",
        "main: object = print",
        "a, main = 1, 2",
        "from .helper import main",
        "from .helper import work as main",
        "from .helper import *",
        "if True:\n    pass\nelse:\n    def main(): pass",
        "try:\n    from fast import main\nexcept ImportError:\n    def main(): pass",
    ],
)
def test_a_module_with_something_to_call_is_taken(text: str) -> None:
    check_function_source({"stats.py": SourceFile(text.encode())}, "text/stats")


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("def man(x): return x", "no main"),
        ("def f():\n    def main(): pass", "no main"),
        ("def main(x) return x", "line 1: it is not valid Python"),
        ("x = 1\n\0", "not valid Python"),
        ("(" * 100_000, "not valid Python"),
        ("#" * 1024 * 1025, "a module may have"),
    ],
)
def test_a_module_that_a_worker_could_not_call_is_refused(text: str, fault: str) -> None:
    with pytest.raises(InvalidInput, match=fault):
        check_function_source({"stats.py": SourceFile(text.encode())}, "text/stats")


def test_a_source_without_the_functions_module_is_refused() -> None:
    with pytest.raises(InvalidInput, match=r"begins in a file stats\.py"):
        check_function_source({"other.py": SourceFile(b"main = 1")}, "text/stats")
