"""Finds `ns/func`, imports it, and notices when its files change.

Before each message the files of a function are looked at again (`sources`). When their content differs, all of them
are imported anew. What is imported is exactly the bytes that were hashed, never a stale cache file. Each function has
modules of its own, also of helpers that others import, too: while it is the one that was asked for last, these are in
`sys.modules`, and no other's. So within a function a helper is always one and the same module.

A file that is written in place, or taken away and made anew, is empty, half there or absent for a while. So the version
that was loaded before goes on while a file that has changed

- is open for writing, for however long;
- was written less than `_QUIET_NS` ago, or, if it was renamed into its place later, renamed just now;
- does not compile, cannot be imported, has no main or is gone, for `_MENDED_NS` after the last change.

What never comes to rest is used after `_PATIENCE` as it is. Where no version was loaded before, the loader waits for
the file: less long, since a job waits, but longer when it sees it change.
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
from dataclasses import dataclass, field, replace
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from pathlib import Path
from types import CodeType, MethodType, ModuleType
from typing import Any

import dts.worker
from dts.errors import DtsError, FunctionMissing, ImportFailed, MainMissing
from dts.model import parse_function_name
from dts.worker.attempt.introspection import is_a, name_of, text_of
from dts.worker.child.code.import_effects import Imprint, watch
from dts.worker.child.code.sources import PACKAGE, Source, Survey, Surveyor, find_namespace
from dts.worker.child.code.writers import is_open_for_writing

BUNDLED = Path(dts.worker.__file__).parent / "functions"
"""The functions that come with DTS."""

_QUIET_NS = 1_000_000_000
"""Nanoseconds after which no more of a file is expected that was written in place."""

_MENDED_NS = 5_000_000_000
"""The same for one that is no good, or gone."""

_PATIENCE = 10.0
"""Seconds after which a file is used, or reported, although it goes on changing. One that is open is never used."""

_TOUCHED = 0.5
"""Seconds for which a new function is waited for whose files are touched all the time and do not change."""

_LOOK_EVERY = 0.02


@dataclass(frozen=True, slots=True)
class Loaded:
    """A function that can be called.

    `is_async` tells whether it runs on an event loop, `is_generator` whether it yields partial values. `version` is a
    hash over all its modules that are known by now. `imprint` is what its module set for its process while it was
    imported.
    """

    name: str
    main: Callable[..., Any]
    is_async: bool
    version: str
    is_generator: bool = False
    imprint: Imprint | None = None


@dataclass(slots=True)
class _Entry:
    """A function as it was imported. `loaded` is None while it is not yet."""

    survey: Survey
    loaded: Loaded | None = None
    modules: dict[str, ModuleType | None] = field(default_factory=dict)
    """By their names what it has imported; the values count while another function has its own in `sys.modules`."""
    change: _Change | None = None
    counted: int = 0
    """Modules that its version covers."""

    def current(self) -> Loaded:
        """The function, with a version that covers what it has imported since."""
        assert self.loaded is not None
        if self.counted != len(self.survey.sources):
            self.counted = len(self.survey.sources)
            self.loaded = replace(self.loaded, version=self.survey.version())
        return self.loaded


@dataclass(slots=True)
class _Change:
    """What has become of a function's files since they were imported."""

    survey: Survey | None
    since: float = field(default_factory=time.monotonic)
    failed: Survey | None = None
    """What could not be imported."""

    def is_awaited(self, before: Survey) -> bool:
        """Whether more may follow, so that the version before goes on."""
        survey = self.survey
        if survey is None:
            return False
        old = before.sources
        changed = [each for name, each in survey.sources.items() if name not in old or old[name].digest != each.digest]
        if any(source.is_open for source in changed):
            return True
        waited = time.monotonic() - self.since
        if waited < _PATIENCE and self._may_go_on(survey, changed, old, waited):
            return True
        return any(is_open_for_writing(source.path) for source in changed)

    def _may_go_on(self, survey: Survey, changed: list[Source], old: dict[str, Source], waited: float) -> bool:
        if any(each.is_in_motion(_QUIET_NS) or _may_be_mended(each) for each in changed):
            return True
        lost = [old[name] for name in (old.keys() - survey.sources.keys()) & survey.names]
        # What has its folder still has not moved to another one, even if it is there again by now.
        if any(source.path.parent in survey.folders or not source.path.exists() for source in lost):
            return waited < _MENDED_NS / 1e9 and survey.has_younger_folder(_MENDED_NS)
        return self.failed is not None and self.failed.is_same(survey) and survey.is_younger(_MENDED_NS)


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
        self._surveyor = Surveyor(self._path)
        self._cache: dict[str, _Entry] = {}
        self._finder = _Finder(self._surveyor)

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
            _take_out([name for name in sys.modules if name.startswith(PACKAGE + ".")])
        self._finder.entry = None
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
        entry = self._cache.get(name)
        if entry is None:
            entry = self._cache[name] = self._load_new(name)
        elif not self._goes_on(entry):
            entry = self._cache[name] = self._load_again(name, entry)
        else:
            self._activate(entry)
        loaded = entry.current()
        if loaded.imprint is not None:
            loaded.imprint.apply()
        return loaded

    def is_current(self, name: str) -> bool:
        """Whether `load` would return what it did the last time."""
        entry = self._cache.get(name)
        return entry is not None and self._goes_on(entry)

    def _goes_on(self, entry: _Entry) -> bool:
        """Whether a function is used as it was loaded: nothing has changed, or it is too early to take that over."""
        known = entry.change.survey if entry.change is not None else None
        try:
            if entry.survey.is_unchanged():
                entry.change = None
                return True
        except OSError:
            pass  # a file is gone: a change like others
        try:
            seen = self._surveyor.look(entry.survey.module, entry.survey.asked, known or entry.survey)
            if seen.is_same(entry.survey):
                entry.survey.sources.update(seen.sources)
                entry.survey.names, entry.survey.folders = seen.names, seen.folders
                entry.change = None
                return True
            entry.change = entry.change or _Change(seen)
            entry.change.survey = seen
            return entry.change.is_awaited(entry.survey)
        except OSError:
            entry.change = entry.change or _Change(None)
            return False

    def _load_again(self, name: str, old: _Entry) -> _Entry:
        """A function whose files have changed, or the old version of it if it cannot be had, and changed lately."""
        assert old.change is not None
        survey = old.change.survey or self._look(name, old.survey, old.survey.asked)
        try:
            return self._import(name, survey)
        except (FunctionMissing, ImportFailed, MainMissing):
            waited = time.monotonic() - old.change.since
            if waited >= _PATIENCE or not survey.is_younger(_MENDED_NS):
                del self._cache[name]
                raise
            old.change.failed = survey
        self._activate(old)
        return old

    def _load_new(self, name: str) -> _Entry:
        """A function that is not loaded. What cannot be imported is looked at again for a while."""
        deadline = time.monotonic() + _PATIENCE
        survey: Survey | None = None
        while True:
            before = survey
            survey = self._settle(name, deadline, before)
            try:
                return self._import(name, survey)
            except (FunctionMissing, ImportFailed, MainMissing):
                if not self._changes(name, survey, deadline):
                    raise

    def _settle(self, name: str, deadline: float, before: Survey | None) -> Survey:
        """The files of a function when no more is expected of any, or the wait for that is over.

        Raises:
            ImportFailed: one cannot be read, or is open for writing and remains so.
        """
        began = same_since = time.monotonic()
        moved, last = before is not None, before
        while True:
            survey = self._look(name, last)
            now = time.monotonic()
            if last is not None and not survey.is_same(last):
                moved, same_since = True, now
            last = survey
            if self._is_gone(survey):
                is_awaited = now - began < _QUIET_NS / 1e9 and survey.has_younger_folder(_QUIET_NS)
            else:
                is_awaited = _is_expected(survey, moved=moved, same_for=now - same_since)
            if not is_awaited or now >= deadline:
                break
            time.sleep(_LOOK_EVERY)
        for source in survey.sources.values():
            if source.is_open:
                raise ImportFailed(
                    f"the module of {name} cannot be read: {source.path} is open for writing: copy a file beside it"
                    " and rename that"
                )
        return survey

    def _changes(self, name: str, failed: Survey, deadline: float) -> bool:
        """Wait whether files that are no good change, as long as they are so young that it is to be expected."""
        while failed.is_younger(_QUIET_NS) and time.monotonic() < deadline:
            time.sleep(_LOOK_EVERY)
            if not self._look(name, failed).is_same(failed):
                return True
        return False

    def _look(self, name: str, before: Survey | None, asked: Sequence[str] | set[str] = ()) -> Survey:
        namespace, function = parse_function_name(name)
        try:
            return self._surveyor.look(f"{PACKAGE}.{namespace}.{function}", asked, before)
        except OSError as error:
            raise ImportFailed(f"the module of {name} cannot be read: {error}") from error

    def _is_gone(self, survey: Survey) -> bool:
        namespace, function = survey.module.removeprefix(PACKAGE + ".").split(".")
        folder = find_namespace(self._path, namespace)
        return folder is None or survey.module not in survey.sources or not (folder / f"{function}.py").is_file()

    def _import(self, name: str, survey: Survey) -> _Entry:
        if self._is_gone(survey):
            namespace, function = parse_function_name(name)
            where = find_namespace(self._path, namespace) or self._path[0] / namespace
            raise FunctionMissing(f"there is no function {name}: no file {function}.py in {where}")
        entry = _Entry(survey, counted=len(survey.sources))
        self._activate(entry)
        changes = watch()
        try:
            module = _import(name, survey.module)
            main = getattr(module, "main", None)
            if not callable(main):
                raise MainMissing(
                    f"{name} has no main: write `def main(…)` or `async def main(…)` in {module.__file__}"
                )
        except DtsError:
            self._activate(None)
            raise
        is_async, is_generator = _kind(main)
        entry.loaded = Loaded(name, main, is_async, survey.version(), is_generator, changes())
        return entry

    def _activate(self, entry: _Entry | None) -> None:
        """Have the import system know a function's modules, and no other's."""
        before = self._finder.entry
        if before is entry:
            return
        if before is not None:
            before.modules = _take_out(list(before.modules))
        self._finder.entry = entry
        if entry is not None:
            _put_in(entry.modules)


class _Finder(MetaPathFinder):
    """Finds modules of the functions package where `Loader` looks for them, without the import system's caches.

    `entry` is the function that was asked for last. What it imports, and reading its files has not told of, is added
    to what it is made of, and so is what it has looked for in vain.
    """

    def __init__(self, surveyor: Surveyor) -> None:
        self._surveyor = surveyor
        self.entry: _Entry | None = None

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        entry = self.entry
        if entry is None or not fullname.startswith(PACKAGE + "."):
            return None
        entry.modules[fullname] = None
        survey = entry.survey
        if fullname not in survey.names:
            survey.asked.add(fullname)
        if fullname not in survey.sources:  # it may have come since
            survey.names.discard(fullname)
            self._surveyor.extend(survey, fullname)
        source = survey.sources.get(fullname)
        if source is not None:
            loader = _BytesLoader(fullname, source)
            return importlib.util.spec_from_file_location(fullname, source.path, loader=loader)
        if fullname.count(".") == PACKAGE.count(".") + 1:
            folder = find_namespace(self._surveyor.path, fullname.rpartition(".")[2])
            if folder is not None:  # a folder without an __init__.py
                spec = ModuleSpec(fullname, None, is_package=True)
                spec.submodule_search_locations = [str(folder)]
                return spec
        importlib.invalidate_caches()
        return PathFinder.find_spec(fullname, path, target)


class _BytesLoader(SourceFileLoader):
    """Imports the bytes that were hashed; reads and writes no cache files."""

    def __init__(self, fullname: str, source: Source) -> None:
        super().__init__(fullname, str(source.path))
        self._source = source

    def get_code(self, fullname: str) -> CodeType:
        return compile(self._source.data, self.path, "exec", dont_inherit=True)


def _may_be_mended(source: Source) -> bool:
    return not source.compiles and source.is_younger(_MENDED_NS)


def _is_expected(survey: Survey, *, moved: bool, same_for: float) -> bool:
    """Whether more of the files is expected: they are open, do not compile, or were changed just now."""
    sources = survey.sources.values()
    if any(source.is_open or _may_be_mended(source) for source in sources):
        return True
    quiet, longest = (_QUIET_NS, _QUIET_NS / 1e9) if moved else (0, _TOUCHED)
    return same_for < longest and any(source.is_in_motion(quiet) for source in sources)


def _take_out(names: Sequence[str]) -> dict[str, ModuleType | None]:
    """Take modules out of the import system; returns those that were there."""
    found = {name: sys.modules.pop(name, None) for name in names}
    for name, module in found.items():
        package, _, attribute = name.rpartition(".")
        if package == PACKAGE and module is not None and vars(sys.modules[PACKAGE]).get(attribute) is module:
            delattr(sys.modules[PACKAGE], attribute)
    return {name: module for name, module in found.items() if module is not None}


def _put_in(modules: dict[str, ModuleType | None]) -> None:
    for name, module in modules.items():
        if module is None:
            continue
        sys.modules[name] = module
        package, _, attribute = name.rpartition(".")
        if package == PACKAGE:
            setattr(sys.modules[PACKAGE], attribute, module)


def _import(name: str, module_name: str) -> ModuleType:
    try:
        return importlib.import_module(module_name)
    except BaseException as error:  # a user's code runs here, and may call sys.exit as well
        said = f"{name_of(type(error))}: {text_of(error)}"
        raise ImportFailed(f"the module of {name} raised {said}") from error


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
