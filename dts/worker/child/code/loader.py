"""Imports functions of one namespace as modules of a package, and notices when their files change.

A child imports a function once. Before each message the files of all that it has imported from the namespace are
checked again (`sources`); when they differ, a fresh child takes its place. What is imported is exactly the bytes that
were hashed, never a stale cache file.

A file that is written in place, or taken away and made anew, is empty, half there or absent for a while. So a file
that has changed is awaited, and the version that was imported before goes on meanwhile, while the file

- is open for writing, for however long;
- was written less than `_QUIET_NS` ago, or, if it was renamed into its place later, renamed just now;
- does not compile, or is gone, for `_MENDED_NS` after the last change.

What never comes to rest is used after `PATIENCE` as it is. A child that has no version waits by the same rules, but
not for what is gone for longer than `_QUIET_NS`.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import inspect
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import MethodType, ModuleType
from typing import Any

import dts.worker
from dts.errors import FunctionMissing, ImportFailed, LoadError, MainMissing
from dts.model import parse_function_name
from dts.worker.attempt.introspection import is_a, name_of, text_of
from dts.worker.attempt.many import main_of_many
from dts.worker.child.code.importers import BytesLoader, FolderLoader
from dts.worker.child.code.sources import PACKAGE, Source, Sources, find_namespace
from dts.worker.child.code.writers import is_open_for_writing

BUNDLED = Path(dts.worker.__file__).parent / "functions"
"""The functions that come with DTS."""

_QUIET_NS = 1_000_000_000
"""Nanoseconds after which no more of a file is expected that was written in place."""

_MENDED_NS = 5_000_000_000
"""The same for one that does not compile, or is gone."""

PATIENCE = 10.0
"""Seconds after which a file is used, or reported, although it goes on changing. One that is open is never used."""

_LOOK_EVERY = 0.02


@dataclass(frozen=True, slots=True)
class Loaded:
    """A function that can be called.

    `is_async` tells whether it runs on an event loop, `is_generator` whether it yields partial values. `version` is a
    hash over its module and all that this imports from the namespace. `many` is its `main_many`, if it has one: jobs
    are run by that, and by `main` one that must run by itself.
    """

    name: str
    main: Callable[..., Any]
    is_async: bool
    version: str
    is_generator: bool = False
    many: Callable[..., Any] | None = None


def dynamic_load(name: str, directory: str | os.PathLike[str] | None = None) -> Loaded:
    """Load `ns/func` once: see `Loader.load`."""
    with Loader(directory) as loader:
        return loader.load(name)


class Loader:
    """Loads functions from a directory, and from the bundled one what that does not have.

    A namespace is a folder, and the first directory that has the folder has the whole namespace. While a loader is
    open (`with`, or `open` and `close`) its directory is on the path of the package `dts.worker.functions`. What is
    loaded has the given `version`, or else a hash over its files.
    """

    def __init__(self, directory: str | os.PathLike[str] | None = None, *, version: str = "") -> None:
        self._fixed_version = version
        self._path = [BUNDLED]
        if directory is not None and Path(directory).resolve() != BUNDLED.resolve():
            self._path.insert(0, Path(directory).absolute())
        self._sources = Sources(self._path)
        self._loaded: dict[str, Loaded] = {}
        self.on_settled: Callable[[], None] = lambda: None
        """Called when the files of a function have come to rest, before it is imported."""
        self._late: dict[str, set[str]] = {}  # by module, what it has imported without naming it
        self._current = ""  # the module that was loaded last: what is imported late counts as imported by it
        self._counts = 0, 0  # files, and modules of the process, that have been looked at
        self._changed_since: float | None = None
        self._finder = _Finder(self)

    def open(self) -> None:
        """Make the directory importable as `dts.worker.functions`."""
        package = importlib.import_module(PACKAGE)
        package.__path__ = [str(folder) for folder in self._path]
        sys.meta_path.insert(0, self._finder)

    def close(self) -> None:
        """Forget all functions, and undo `open`. May be called twice."""
        if self._finder in sys.meta_path:
            sys.meta_path.remove(self._finder)
            package = sys.modules[PACKAGE]
            package.__path__ = [str(BUNDLED)]
            for name in [name for name in sys.modules if name.startswith(PACKAGE + ".")]:
                del sys.modules[name]
                vars(package).pop(name.removeprefix(PACKAGE + "."), None)
        self._loaded.clear()

    def __enter__(self) -> Loader:
        self.open()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def load(self, name: str) -> Loaded:
        """The function of that name, imported when it is asked for first.

        Raises:
            InvalidName: it cannot be the name of a function.
            FunctionMissing: there is no such file.
            ImportFailed: the module raised while it was imported, and the cause is what it raised; or a file that it
                needs cannot be read.
            MainMissing: the module has no callable `main` or `main_many`.
        """
        namespace, function = parse_function_name(name)
        self._current = f"{PACKAGE}.{namespace}.{function}"
        loaded = self._loaded.get(name)
        if loaded is None:
            loaded = self._import(name)
        counts = len(self._sources.files), len(sys.modules)
        if counts != self._counts:
            self._counts = counts
            self._find_others(namespace)
            self._loaded = {name: replace(each, version=self._version(name)) for name, each in self._loaded.items()}
            loaded = self._loaded[name]
        return loaded

    def change(self) -> str:
        """What has changed of the files that were imported, so that this process is out of date; empty for nothing.

        A change that may be incomplete, or that others may follow, does not count yet.
        """
        if self._sources.is_unchanged():
            self._changed_since = None
            return ""
        try:
            now = self._sources.look_again()
        except OSError as error:
            return f"a file of its functions cannot be read: {error}"
        changed, gone = self._sources.differences(now)
        if not changed and not gone:
            self._sources, self._changed_since = now, None
            return ""
        self._changed_since = self._changed_since or time.monotonic()
        if self._is_awaited(now, changed, gone, time.monotonic() - self._changed_since):
            return ""
        return f"{(changed or gone)[0].path} has changed"

    def _is_awaited(self, now: Sources, changed: Sequence[Source], gone: Sequence[Source], waited: float) -> bool:
        if any(source.is_open for source in changed):
            return True
        if waited < PATIENCE and any(each.is_in_motion(_QUIET_NS) or _may_be_mended(each) for each in changed):
            return True
        # What has its folder still has not moved to another one, even if it is there again by now.
        lost = any(now.is_folder(source.path.parent) or not source.path.exists() for source in gone)
        if lost and waited < _MENDED_NS / 1e9 and now.has_younger_folder(_MENDED_NS):
            return True
        return any(is_open_for_writing(source.path) for source in changed)

    def _import(self, name: str) -> Loaded:
        module_name = self._current
        self._sources.merge(self._settle(name, module_name))
        self.on_settled()
        try:
            main, many = _callables_of(name, module_name)
        except LoadError:  # it is tried again, with its files as they are then
            sys.modules.pop(module_name, None)
            self._sources.forget([each for each in self._sources.names if each not in sys.modules])
            raise
        is_async, is_generator = _kind(main) if many is None else (False, False)
        loaded = self._loaded[name] = Loaded(name, main, is_async, self._version(name), is_generator, many)
        return loaded

    def _settle(self, name: str, module: str) -> Sources:
        """The files of a function, when no more is expected of any, or the wait for that is over.

        Raises:
            FunctionMissing: it has no file.
            ImportFailed: a file cannot be read, or is open for writing and remains so.
        """
        began = same_since = time.monotonic()
        last: Sources | None = None
        while True:
            seen = Sources(self._path)
            try:
                seen.add(module, last)
            except OSError as error:
                raise ImportFailed(f"the module of {name} cannot be read: {error}") from error
            now = time.monotonic()
            if last is not None and any(last.differences(seen)):
                same_since = now
            last, is_there = seen, self._is_there(module)
            if not self._is_expected(seen, is_there=is_there, same_for=now - same_since) or now - began >= PATIENCE:
                break
            time.sleep(_LOOK_EVERY)
        if not is_there:
            namespace, function = parse_function_name(name)
            where = find_namespace(self._path, namespace) or self._path[0] / namespace
            raise FunctionMissing(f"there is no function {name}: no file {function}.py in {where}")
        for source in seen.files.values():
            if source.is_open:
                raise ImportFailed(
                    f"the module of {name} cannot be read: {source.path} is open for writing: copy a file beside it"
                    " and rename that"
                )
        return seen

    def _is_expected(self, seen: Sources, *, is_there: bool, same_for: float) -> bool:
        """Whether more of the files of a function is expected."""
        quiet = same_for >= _QUIET_NS / 1e9  # also of files that are touched all the time
        if not is_there:
            return not quiet and seen.has_younger_folder(_QUIET_NS)
        sources = seen.files.values()
        if any(source.is_open or _may_be_mended(source) for source in sources):
            return True
        return not quiet and any(source.is_in_motion(_QUIET_NS) for source in sources)

    def _is_there(self, module: str) -> bool:
        namespace, function = module.removeprefix(PACKAGE + ".").split(".")
        folder = find_namespace(self._path, namespace)
        return folder is not None and (folder / f"{function}.py").is_file()

    def _version(self, name: str) -> str:
        if self._fixed_version:
            return self._fixed_version
        module = f"{PACKAGE}.{name.replace('/', '.')}"
        return self._sources.version([module, *self._late.get(module, ())])

    def _find_others(self, namespace: str) -> None:
        """Note the files of the namespace that were imported as other modules, such as over `sys.path`."""
        folder = find_namespace(self._path, namespace)
        if folder is None:
            return
        known, inside = {source.path for source in self._sources.files.values()}, f"{folder}{os.sep}"
        for module in list(sys.modules.values()):
            file = getattr(module, "__dict__", {}).get("__file__")
            if type(file) is str and file.startswith(inside) and Path(file) not in known:
                self._sources.add_other(Path(file))

    def source_of(self, module: str) -> Source | None:
        """The file of a module that is being imported; None if there is none. Raises OSError."""
        sources = self._sources
        if module not in sources.names:
            self._late.setdefault(self._current, set()).add(module)
        if module not in sources.files:  # it may have come since
            sources.names.discard(module)
            sources.add(module)
        return sources.files.get(module)

    def namespace_folder(self, module: str) -> Path | None:
        """The folder of a module that is a namespace; None for any other module."""
        parent, _, namespace = module.rpartition(".")
        return find_namespace(self._path, namespace) if parent == PACKAGE else None


class _Finder(MetaPathFinder):
    """Finds modules of the functions package where `Loader` looks for them, without the import system's caches."""

    def __init__(self, loader: Loader) -> None:
        self._loader = loader

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if not fullname.startswith(PACKAGE + "."):
            return None
        source = self._loader.source_of(fullname)
        if source is not None:
            return importlib.util.spec_from_file_location(fullname, source.path, loader=BytesLoader(fullname, source))
        folder = self._loader.namespace_folder(fullname)
        if folder is not None:  # without an __init__.py
            spec = ModuleSpec(fullname, FolderLoader(folder), is_package=True)
            spec.submodule_search_locations = [str(folder)]
            return spec
        importlib.invalidate_caches()
        return PathFinder.find_spec(fullname, path, target)


def _may_be_mended(source: Source) -> bool:
    return not source.compiles and source.is_younger(_MENDED_NS)


def _callables_of(name: str, module_name: str) -> tuple[Callable[..., Any], Callable[..., Any] | None]:
    """What runs one job, and what runs many at once, if there is that."""
    try:
        module = importlib.import_module(module_name)
    except BaseException as error:  # a user's code runs here, and may call sys.exit as well
        said = f"{name_of(type(error))}: {text_of(error)}"
        raise ImportFailed(f"the module of {name} raised {said}") from error
    main, many = getattr(module, "main", None), getattr(module, "main_many", None)
    many = many if callable(many) else None
    if callable(main):
        return main, many
    if many is None:
        raise MainMissing(
            f"{name} has no main: write `def main(…)`, `async def main(…)` or `def main_many(items)`"
            f" in {module.__file__}"
        )
    return main_of_many(many), many


def _kind(main: Any) -> tuple[bool, bool]:
    """Whether `main` is async, and whether it is a generator, as far as it tells.

    An object may answer every attribute that it is asked for, with another such object, so only what real functions
    and `functools.partial` hold is followed. Of another callable its class says what a call does.
    """
    while is_a(main, functools.partial):
        main = functools.partial.func.__get__(main)
    if not _is_function(main):
        main = inspect.getattr_static(type(main), "__call__", None)
    if not _is_function(main):
        return False, False
    if inspect.isasyncgenfunction(main):
        return True, True
    return inspect.iscoroutinefunction(main), inspect.isgeneratorfunction(main)


def _is_function(value: object) -> bool:
    """Whether it is a function or method of Python's, or of a compiler that has code objects, such as Cython."""
    return is_a(value, MethodType) or inspect.getattr_static(type(value), "__code__", None) is not None
