"""The files that a child runs: those of its functions, and those of the helpers that they import from the namespace.

They are found by reading the import statements, and looked for again when a folder changes where one may appear.
Looking again costs a few microseconds a file, the time of its `stat`, as long as nothing has changed.
"""

from __future__ import annotations

import ast
import hashlib
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from dts.worker.child.code.writers import is_open_for_writing

PACKAGE = "dts.worker.functions"

SETTLED_NS = 100_000_000
"""A file or folder that changed less than this many nanoseconds ago may change again without a new time of change, as
clocks of file systems are that coarse: it is read again each time."""

Stamp = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Source:
    """A file as it was read. `is_sure` tells whether the same `stamp` means the same content."""

    path: Path
    stamp: Stamp
    digest: bytes
    data: bytes
    imports: tuple[str, ...]
    compiles: bool
    is_open: bool
    """Whether a process had it open for writing."""
    is_sure: bool

    def is_unchanged(self) -> bool:
        """Whether the file surely has the same content still. Raises OSError when it is gone."""
        return self.is_sure and self.stamp == _stamp(os.stat(self.path))

    def is_younger(self, nanoseconds: int) -> bool:
        """Whether the file was changed, renamed or touched less than this time ago."""
        return _is_young(max(self.stamp[:2]), nanoseconds)

    def is_in_motion(self, quiet: int) -> bool:
        """Whether it was touched just now, or its content was written less than `quiet` nanoseconds ago.

        What was written long ago and renamed just now is not in motion for long: it came whole.
        """
        return self.is_younger(SETTLED_NS) or _is_young(self.stamp[0], quiet)


class Sources:
    """Files by the names of their modules, below the directories of `path`; the first with a namespace has all of it.

    `names` are the modules that were looked for; not all of them exist. `others` are files of the namespace that were
    imported in another way, such as over `sys.path`; they are in `files` by their paths.
    """

    def __init__(self, path: Sequence[Path]) -> None:
        self.path = path
        self.files: dict[str, Source] = {}
        self.names: set[str] = set()
        self.others: set[Path] = set()
        self._folders: dict[Path, Stamp | None] = {}

    def add(self, name: str, before: Sources | None = None) -> None:
        """Add a module and all that it imports, if they exist. Raises OSError when one cannot be read."""
        waiting = [name]
        while waiting:
            name = waiting.pop()
            if name in self.names or not name.startswith(PACKAGE + "."):
                continue
            self.names.add(name)
            waiting.append(name.rpartition(".")[0])
            for folder in self._folders_of(name):
                self._folders.setdefault(folder, _trusted(_folder_stamp(folder)))
            path = find_module(self.path, name)
            if path is None:
                continue
            try:
                source = read_source(path, name, before.files.get(name) if before is not None else None)
            except FileNotFoundError:  # it went this instant
                continue
            self.files[name] = source
            waiting += source.imports

    def add_other(self, path: Path, before: Source | None = None) -> None:
        """Add a file that was imported in another way, unless it is gone."""
        self.others.add(path)
        try:
            self.files[str(path)] = read_source(path, "", before)
        except FileNotFoundError:
            return

    def merge(self, other: Sources) -> None:
        """Add what another survey has found. What is here already stays: it may have been imported."""
        self.names |= other.names
        self.files = other.files | self.files
        self._folders = other._folders | self._folders

    def forget(self, names: Iterable[str]) -> None:
        """Take out modules."""
        for name in names:
            self.names.discard(name)
            self.files.pop(name, None)

    def is_folder(self, path: Path) -> bool:
        """Whether modules are looked for in a folder."""
        return path in self._folders

    def look_again(self) -> Sources:
        """The same names as they are now. Raises OSError when a file cannot be read."""
        now = Sources(self.path)
        for name in list(self.names):
            now.add(name, self)
        for path in self.others:
            now.add_other(path, self.files.get(str(path)))
        return now

    def is_unchanged(self) -> bool:
        """Whether all is as it was, for sure."""
        try:
            # Copies, since a thread of a function may import one more.
            folders = all([stamp != () and stamp == _folder_stamp(path) for path, stamp in list(self._folders.items())])
            return folders and all([source.is_unchanged() for source in list(self.files.values())])
        except OSError:  # a file is gone
            return False

    def differences(self, now: Sources) -> tuple[list[Source], list[Source]]:
        """What is new or has changed, as it is now, and what is gone, as it was."""
        changed = [
            each
            for name, each in now.files.items()
            if (old := self.files.get(name)) is None or (old.digest, old.path) != (each.digest, each.path)
        ]
        return changed, [source for name, source in self.files.items() if name not in now.files]

    def has_younger_folder(self, nanoseconds: int) -> bool:
        """Whether a file was added to any of its folders, or taken from it, less than this time ago."""
        stamps = [_folder_stamp(path) for path in list(self._folders)]
        return any(stamp is not None and _is_young(stamp[0], nanoseconds) for stamp in stamps)

    def version(self, modules: Iterable[str]) -> str:
        """A short hash over the names and contents of modules and of all that they import."""
        found: set[str] = set()
        waiting = list(modules)
        while waiting:
            name = waiting.pop()
            if name.startswith(PACKAGE + ".") and name not in found:
                found.add(name)
                waiting.append(name.rpartition(".")[0])
                waiting += self.files[name].imports if name in self.files else ()
        total = hashlib.sha256()
        for name in sorted(found & self.files.keys()):
            total.update(name.encode() + b"\0" + self.files[name].digest)
        return total.hexdigest()[:12]

    def _folders_of(self, name: str) -> Iterator[Path]:
        """The folders in which a module's file would appear: those that exist."""
        yield from self.path[:-1]  # where a namespace would appear; the last one is DTS's own
        parts = name.removeprefix(PACKAGE + ".").split(".")
        folder = find_namespace(self.path, parts[0])
        if folder is not None:
            place = folder.joinpath(*parts[1:])
            yield from (each for each in {place, place.parent} - set(self.path) if each.is_dir())


def read_source(path: Path, module: str, before: Source | None = None) -> Source:
    """Read a file, of a module or of none if that is empty, unless it surely is as it was before. Raises OSError."""
    status = os.stat(path)
    stamp = _stamp(status)
    if before is not None and before.path == path and before.is_sure and before.stamp == stamp:
        return before
    is_open = is_open_for_writing(path)
    data = path.read_bytes()
    is_sure = not is_open and not _is_young(max(stamp[:2]), SETTLED_NS) and _stamp(os.stat(path)) == stamp
    digest = hashlib.sha256(data).digest()
    if before is not None and before.path == path and before.digest == digest:
        return Source(path, stamp, digest, before.data, before.imports, before.compiles, is_open, is_sure)
    tree = _parse(data) if path.suffix == ".py" else None
    names = _imported_names(tree, module, is_package=path.name == "__init__.py") if tree is not None and module else ()
    compiles = tree is not None or path.suffix != ".py"
    return Source(path, stamp, digest, data, tuple(names), compiles, is_open, is_sure)


def find_namespace(path: Sequence[Path], namespace: str) -> Path | None:
    """The folder of a namespace: the first one on the path."""
    for directory in path:
        if (directory / namespace).is_dir():
            return directory / namespace
    return None


def find_module(path: Sequence[Path], name: str) -> Path | None:
    """The file of a module below the functions package, given its full name; None if it has none."""
    parts = name.removeprefix(PACKAGE + ".").split(".")
    folder = find_namespace(path, parts[0]) if name.startswith(PACKAGE + ".") else None
    if folder is None:
        return None
    place = folder.joinpath(*parts[1:])
    for file in (place / "__init__.py", place.with_name(place.name + ".py")):
        if file.is_file() and file.parent != folder.parent:
            return file
    return None


def _is_young(moment: int, nanoseconds: int) -> bool:
    """Whether a moment is so short a time ago; clocks may differ a little."""
    return -SETTLED_NS <= time.time_ns() - moment < nanoseconds


def _stamp(status: os.stat_result) -> Stamp:
    return status.st_mtime_ns, status.st_ctime_ns, status.st_size, status.st_ino


def _folder_stamp(path: Path) -> Stamp | None:
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_mtime_ns, status.st_ino


def _trusted(stamp: Stamp | None) -> Stamp | None:
    """A folder's stamp, or an empty one if the folder may change again without a new one."""
    return () if stamp is not None and _is_young(stamp[0], SETTLED_NS) else stamp


def _parse(data: bytes) -> ast.Module | None:
    """A file's syntax tree; None if it does not compile, which is found out again, and reported, by its import."""
    try:
        return ast.parse(data)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def _imported_names(tree: ast.Module, module: str, *, is_package: bool) -> Iterator[str]:
    """Full names of what a module's import statements may import from the functions package."""
    package = module if is_package else module.rpartition(".")[0]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package.rsplit(".", node.level - 1)[0] if node.level else ""
            base = ".".join(filter(None, (base, node.module)))
            names = [base, *(f"{base}.{alias.name}" for alias in node.names)]
        elif isinstance(node, ast.Call):
            names = _names_in_call(node, package)
        else:
            continue
        yield from (name for name in names if name.startswith(PACKAGE + ".") and name.isprintable())


def _names_in_call(call: ast.Call, package: str) -> list[str]:
    """The name in `importlib.import_module("…", __package__)` or the like, if it is written there."""
    called = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
    first = call.args[0] if call.args else None
    if called not in ("import_module", "__import__") or not isinstance(first, ast.Constant):
        return []
    name = str(first.value)
    level = len(name) - len(name.lstrip("."))
    base = package.rsplit(".", level - 1)[0] if level else ""
    return [".".join(filter(None, (base, name.lstrip("."))))]
