"""Finds `ns/func`, imports it, and notices when its file changes.

A function's source is its file and what it imports from the functions directory, directly or not: found by reading
the import statements. Its version is a hash over them. Before each message the files are looked at again: their
status first, which costs microseconds, their content only if that differs. When the content differs, all of them are
forgotten and imported anew. What is imported is exactly the bytes that were hashed, never a stale cache file.

A file that is written in place is empty or half there for a while. So a change does not count while somebody has the
file open for writing, nor before it is `_SETTLED_NS` old, nor, if the file does not compile, before it is `_MENDED_NS`
old: until then the version that was loaded before is used, and where there is none the loader waits for the file. The
version before is used, too, for as long as a module that was changed lately cannot be imported or has no main.
"""

from __future__ import annotations

import ast
import hashlib
import importlib
import importlib.util
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

from dts.errors import FunctionMissing, ImportFailed, MainMissing
from dts.model import parse_function_name
from dts.worker.foreign import name_of, text_of
from dts.worker.imprint import Imprint, watch
from dts.worker.writers import is_open_for_writing

PACKAGE = "dts.worker.functions"
BUNDLED = Path(__file__).parent / "functions"
"""The functions that come with DTS."""

_SETTLED_NS = 100_000_000
"""A file changed less than this many nanoseconds ago may be in the middle of being written, or change again without a
new time of change: its content is not used if that can be helped, and it is hashed again each time."""

_MENDED_NS = 5_000_000_000
"""The same for a file that does not compile: more of it may follow."""

_LOOK_EVERY = 0.02


class State(Enum):
    """What may be the matter with a file's content; the value says for how many seconds it is waited for."""

    SETTLED = 0.0
    FRESH = 0.5
    """It was changed just now. What is changed all the time is used as it is in the end."""
    BROKEN = 5.5
    """It does not compile, and was changed lately."""
    WRITTEN = 10.0
    """It is open for writing: it is never used."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """A function that can be called.

    `is_async` tells whether it runs on an event loop, `is_generator` whether it yields partial values. `imprint` is
    what its module set for its process while it was imported.
    """

    name: str
    main: Callable[..., Any]
    is_async: bool
    version: str
    is_generator: bool = False
    imprint: Imprint | None = None


@dataclass(slots=True)
class _Source:
    """A module's file as it was read. `stamp` is None when the file is too fresh for its status to be relied on."""

    path: Path
    stamp: tuple[int, ...] | None
    digest: bytes
    data: bytes
    state: State = State.SETTLED

    def unchanged(self) -> bool:
        """Whether the file's content is still the same, or is just being changed. Raises OSError when it is gone."""
        if self.stamp is not None and self.stamp == _stamp(os.stat(self.path)):
            return True
        now = read_source(self.path)
        if now.digest != self.digest:
            self.stamp = None
            return now.stamp is None
        self.stamp = now.stamp
        return True


def read_source(path: Path) -> _Source:
    """Read a file with its status before it was read. Raises OSError."""
    status = os.stat(path)
    data = path.read_bytes()
    age = time.time_ns() - max(status.st_mtime_ns, status.st_ctime_ns)
    state = State.SETTLED
    if is_open_for_writing(path):
        state = State.WRITTEN
    elif 0 <= age < _MENDED_NS and not _compiles(data):
        state = State.BROKEN
    elif abs(age) <= _SETTLED_NS or _stamp(os.stat(path)) != _stamp(status):
        state = State.FRESH
    stamp = _stamp(status) if state is State.SETTLED else None
    return _Source(path, stamp, hashlib.sha256(data).digest(), data, state)


def dynamic_load(name: str, directory: str | os.PathLike[str] | None = None) -> Loaded:
    """Load `ns/func` once: see `Loader.load`."""
    with Loader(directory) as loader:
        return loader.load(name)


class Loader:
    """Loads functions from a directory, and from the bundled one what that does not have.

    A namespace is a folder, and the first directory that has the folder has the whole namespace. While a loader is
    open (`with`, or `open` and `close`) its directory is on the path of the package `dts.worker.functions`.
    """

    def __init__(self, directory: str | os.PathLike[str] | None = None) -> None:
        self._path = [BUNDLED]
        if directory is not None and Path(directory).resolve() != BUNDLED.resolve():
            self._path.insert(0, Path(directory).absolute())
        self._cache: dict[str, tuple[Loaded, dict[str, _Source]]] = {}
        self._finder = _Finder(self._path)

    def open(self) -> None:
        """Make the directory importable as `dts.worker.functions`."""
        package = importlib.import_module(PACKAGE)
        package.__path__ = [str(folder) for folder in self._path]
        sys.meta_path.insert(0, self._finder)

    def close(self) -> None:
        """Forget all functions, and undo `open`. May be called twice."""
        if self._finder in sys.meta_path:
            sys.meta_path.remove(self._finder)
            sys.modules[PACKAGE].__path__ = [str(BUNDLED)]
            _forget([name for name in sys.modules if name.startswith(PACKAGE + ".")])
        self._cache.clear()

    def __enter__(self) -> Loader:
        self.open()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def load(self, name: str) -> Loaded:
        """The function of that name, as its files are now; what its module has set for its process is set again.

        Raises:
            InvalidName: it cannot be the name of a function.
            FunctionMissing: there is no such file.
            ImportFailed: the module raised while it was imported, and the cause is what it raised; or a file that it
                needs cannot be read.
            MainMissing: the module has no callable `main`.
        """
        cached = self._cache.get(name)
        if cached is not None and self._is_current(*cached):
            self._finder.sources = cached[1]
            if cached[0].imprint is not None:
                cached[0].imprint.apply()
            return cached[0]
        if cached is not None:
            _forget(cached[1])
            del self._cache[name]
        try:
            loaded, sources = self._load(name)
        except OSError as error:
            raise ImportFailed(f"the module of {name} cannot be read: {error}") from error
        except (ImportFailed, MainMissing):
            if cached is None or not _changed_lately(self._finder.sources.values()):
                raise
            self._cache[name] = cached  # more of a file may follow, and what was loaded before works
            return cached[0]
        self._cache[name] = loaded, sources
        return loaded

    def is_current(self, name: str) -> bool:
        """Whether `load` would return what it did the last time."""
        cached = self._cache.get(name)
        return cached is not None and self._is_current(*cached)

    def _is_current(self, loaded: Loaded, sources: dict[str, _Source]) -> bool:
        """Whether the function would be loaded from the same files with the same content."""
        try:
            folder = find_namespace(self._path, loaded.name.partition("/")[0]) if len(self._path) > 1 else None
            # A copy, since a function may import one more while it runs.
            files = list(sources.values())
            return folder in (None, files[0].path.parent) and all([source.unchanged() for source in files])
        except OSError:
            return False

    def _load(self, name: str) -> tuple[Loaded, dict[str, _Source]]:
        namespace, function = parse_function_name(name)
        module_name = f"{PACKAGE}.{namespace}.{function}"
        folder = find_namespace(self._path, namespace)
        if folder is None or not (folder / f"{function}.py").is_file():
            where = folder or self._path[0] / namespace
            raise FunctionMissing(f"there is no function {name}: no file {function}.py in {where}")
        sources = self._settled_sources(module_name)
        _forget(sources)
        self._finder.sources = sources
        changes = watch()
        module = _import(name, module_name)
        main = getattr(module, "main", None)
        if not callable(main):
            raise MainMissing(f"{name} has no main: write `def main(…)` or `async def main(…)` in {module.__file__}")
        is_async, is_generator = _kind(main)
        loaded = Loaded(name, main, is_async, _version(sources), is_generator, changes())
        return loaded, sources

    def _settled_sources(self, module_name: str) -> dict[str, _Source]:
        """What `_sources` finds when no file is just being written, or the wait for that is over.

        Raises:
            OSError: one is open for writing and remains so.
        """
        began = time.monotonic()
        while True:
            sources = self._sources(module_name)
            worst = max(sources.values(), key=lambda source: source.state.value)
            if time.monotonic() - began >= worst.state.value:
                if worst.state is State.WRITTEN:
                    raise OSError(f"{worst.path} is open for writing: copy a file beside it and rename that")
                return sources
            time.sleep(_LOOK_EVERY if worst.state is State.FRESH else 5 * _LOOK_EVERY)

    def _sources(self, module_name: str) -> dict[str, _Source]:
        """The files of a module and of all modules in the functions directory that it imports, by module name."""
        found: dict[str, _Source] = {}
        waiting = [module_name]
        while waiting:
            name = waiting.pop()
            path = find_module(self._path, name)
            if name in found or path is None:
                continue
            source = found[name] = read_source(path)
            waiting.append(name.rpartition(".")[0])
            waiting += _imported_names(source.data, name, is_package=path.name == "__init__.py")
        return found


class _Finder(MetaPathFinder):
    """Finds modules of the functions package where `Loader` looks for them, without the import system's caches.

    `sources` are those of the function that was asked for last. A module that it imports, and that reading its files
    has not told of, is added to them.
    """

    def __init__(self, path: Sequence[Path]) -> None:
        self._path = path
        self.sources: dict[str, _Source] = {}

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if not fullname.startswith(PACKAGE + "."):
            return None
        file = find_module(self._path, fullname)
        if file is not None:
            source = self.sources.get(fullname)
            if source is None:
                source = self.sources[fullname] = read_source(file)
            loader = _BytesLoader(fullname, str(file), source)
            return importlib.util.spec_from_file_location(fullname, file, loader=loader)
        if fullname.count(".") == PACKAGE.count(".") + 1:
            folder = find_namespace(self._path, fullname.rpartition(".")[2])
            if folder is not None:  # a folder without an __init__.py
                spec = ModuleSpec(fullname, None, is_package=True)
                spec.submodule_search_locations = [str(folder)]
                return spec
        importlib.invalidate_caches()
        return PathFinder.find_spec(fullname, path, target)


class _BytesLoader(SourceFileLoader):
    """Imports the bytes that were hashed; reads and writes no cache files."""

    def __init__(self, fullname: str, path: str, source: _Source) -> None:
        super().__init__(fullname, path)
        self._source = source

    def get_code(self, fullname: str) -> CodeType:
        return compile(self._source.data, self.path, "exec", dont_inherit=True)


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


def _changed_lately(sources: Iterable[_Source]) -> bool:
    """Whether any of these files is so young that more of it may follow."""
    try:
        changes = [os.stat(source.path) for source in sources]
    except OSError:
        return False
    return any(0 <= time.time_ns() - max(each.st_mtime_ns, each.st_ctime_ns) < _MENDED_NS for each in changes)


def _stamp(status: os.stat_result) -> tuple[int, ...]:
    return status.st_mtime_ns, status.st_ctime_ns, status.st_size, status.st_ino


def _version(sources: dict[str, _Source]) -> str:
    """A short hash over the names and contents of all sources."""
    total = hashlib.sha256()
    for name, source in sorted(sources.items()):
        total.update(name.encode() + b"\0" + source.digest)
    return total.hexdigest()[:12]


def _compiles(data: bytes) -> bool:
    try:
        ast.parse(data)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return True


def _imported_names(data: bytes, module: str, *, is_package: bool) -> Iterator[str]:
    """Full names of what a module's import statements may import from the functions package."""
    try:
        tree = ast.parse(data)
    except (SyntaxError, ValueError, RecursionError, MemoryError):  # found out again, and reported, when it is imported
        return
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
        yield from (name for name in names if name.startswith(PACKAGE + "."))


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


def _forget(modules: Sequence[str] | dict[str, _Source]) -> None:
    """Take modules out of the import system, so that the next import reads them again."""
    for name in modules:
        module = sys.modules.pop(name, None)
        package, _, attribute = name.rpartition(".")
        parent = sys.modules.get(package)
        if module is not None and getattr(parent, attribute, None) is module:
            delattr(parent, attribute)


def _import(name: str, module_name: str) -> ModuleType:
    try:
        return importlib.import_module(module_name)
    except BaseException as error:  # a user's code runs here, and may call sys.exit as well
        said = f"{name_of(type(error))}: {text_of(error)}"
        raise ImportFailed(f"the module of {name} raised {said}") from error


def _kind(main: Callable[..., Any]) -> tuple[bool, bool]:
    """Whether `main` is async, and whether it is a generator, as far as it tells."""
    while hasattr(main, "func"):  # functools.partial
        main = main.func
    import inspect

    made = (main, getattr(main, "__call__", None))  # noqa: B004
    if any(map(inspect.isasyncgenfunction, made)):
        return True, True
    return any(map(inspect.iscoroutinefunction, made)), any(map(inspect.isgeneratorfunction, made))
