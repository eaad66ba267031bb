"""The files that a function is made of, as they are at one moment: its own, and those of the helpers it imports.

They are found by reading the import statements, and looked for again when a folder changes where one may appear.
Looking again costs a few microseconds a file, the time of its `stat`, as long as nothing has changed.
"""

from __future__ import annotations

import ast
import hashlib
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from dts.worker.child.code.writers import is_open_for_writing

PACKAGE = "dts.worker.functions"

SETTLED_NS = 100_000_000
"""A file or folder changed less than this many nanoseconds ago may change again without a new time of change: its
status tells nothing, and it is read again each time."""

Stamp = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Source:
    """A module's file as it was read. `is_sure` tells whether the same `stamp` means the same content."""

    path: Path
    stamp: Stamp
    digest: bytes
    data: bytes
    imports: tuple[str, ...]
    compiles: bool
    is_open: bool
    """Whether somebody had it open for writing."""
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


@dataclass(slots=True)
class Survey:
    """All files of a function, by the names of their modules."""

    module: str
    sources: dict[str, Source] = field(default_factory=dict)
    names: set[str] = field(default_factory=set)
    """Modules that it may import; not all of them exist."""
    asked: set[str] = field(default_factory=set)
    """Those of them that its files do not name: it has imported them while it ran, or has tried to."""
    folders: dict[Path, Stamp | None] = field(default_factory=dict)
    """Where modules of these names may appear; empty for one that has changed just now."""

    def is_unchanged(self) -> bool:
        """Whether all is as it was, for sure. Raises OSError when a file is gone."""
        # Copies, since a thread of the function may import one more.
        folders = all([stamp != () and stamp == _folder_stamp(path) for path, stamp in list(self.folders.items())])
        return folders and all([source.is_unchanged() for source in list(self.sources.values())])

    def is_same(self, other: Survey) -> bool:
        """Whether the same modules have the same content."""
        return self.digests() == other.digests()

    def digests(self) -> dict[str, bytes]:
        """What the modules contain."""
        return {name: source.digest for name, source in list(self.sources.items())}

    def is_younger(self, nanoseconds: int) -> bool:
        """Whether any file was changed, or any was added to a folder or taken from it, less than this time ago."""
        young = any([source.is_younger(nanoseconds) for source in self.sources.values()])
        return young or self.has_younger_folder(nanoseconds)

    def has_younger_folder(self, nanoseconds: int) -> bool:
        """Whether a file was added to any of its folders, or taken from it, less than this time ago."""
        stamps = [_folder_stamp(path) for path in list(self.folders)]
        return any(stamp is not None and _is_young(stamp[0], nanoseconds) for stamp in stamps)

    def version(self) -> str:
        """A short hash over the names and contents of all modules."""
        total = hashlib.sha256()
        for name, digest in sorted(self.digests().items()):
            total.update(name.encode() + b"\0" + digest)
        return total.hexdigest()[:12]


class Surveyor:
    """Looks at the functions below the directories of `path`; the first that has a namespace has all of it."""

    def __init__(self, path: Sequence[Path]) -> None:
        self.path = path

    def look(self, module: str, asked: Iterable[str] = (), before: Survey | None = None) -> Survey:
        """What a module is made of now. What is surely as it was `before` is not read again. Raises OSError."""
        survey = Survey(module, asked=set(asked))
        for root in self.path[:-1]:  # the last one is that of DTS itself
            survey.folders[root] = _trusted(_folder_stamp(root))
        for name in (module, *survey.asked):
            self.extend(survey, name, before)
        return survey

    def extend(self, survey: Survey, name: str, before: Survey | None = None) -> None:
        """Add a module and all that it imports, if they exist. Raises OSError when one cannot be read."""
        waiting = [name]
        while waiting:
            name = waiting.pop()
            if name in survey.names or not name.startswith(PACKAGE + "."):
                continue
            survey.names.add(name)
            waiting.append(name.rpartition(".")[0])
            for folder in self._folders(name):
                survey.folders.setdefault(folder, _trusted(_folder_stamp(folder)))
            path = find_module(self.path, name)
            if path is None:
                continue
            try:
                source = read_source(path, name, before.sources.get(name) if before is not None else None)
            except FileNotFoundError:  # it went this instant
                continue
            survey.sources[name] = source
            waiting += source.imports

    def _folders(self, name: str) -> Iterator[Path]:
        """The folders that there are in which a module's file would appear."""
        parts = name.removeprefix(PACKAGE + ".").split(".")
        folder = find_namespace(self.path, parts[0])
        if folder is not None:
            place = folder.joinpath(*parts[1:])
            yield from (each for each in {place, place.parent} - set(self.path) if each.is_dir())


def read_source(path: Path, module: str, before: Source | None = None) -> Source:
    """Read a module's file, unless it surely is as it was before. Raises OSError."""
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
    tree = _parse(data)
    names = _imported_names(tree, module, is_package=path.name == "__init__.py") if tree is not None else ()
    return Source(path, stamp, digest, data, tuple(names), tree is not None, is_open, is_sure)


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
