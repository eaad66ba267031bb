"""Makes the modules of functions: from bytes that were read before, and from folders without an `__init__.py`."""

from __future__ import annotations

from importlib.abc import Loader
from importlib.machinery import ModuleSpec, SourceFileLoader
from importlib.resources.abc import TraversableResources
from pathlib import Path
from types import CodeType, ModuleType

from dts.worker.child.code.sources import Source


class BytesLoader(SourceFileLoader):
    """Imports the bytes that were hashed; reads and writes no cache files."""

    def __init__(self, fullname: str, source: Source) -> None:
        super().__init__(fullname, str(source.path))
        self._source = source

    def get_code(self, fullname: str) -> CodeType:
        return compile(self._source.data, self.path, "exec", dont_inherit=True)


class FolderLoader(Loader):
    """Makes the package of a namespace that has no `__init__.py`: empty, with the folder's files as its resources."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return None

    def exec_module(self, module: ModuleType) -> None:
        """Nothing to run."""

    def get_resource_reader(self, fullname: str) -> TraversableResources:
        """What `importlib.resources` reads the files by."""
        return _FolderReader(self._folder)


class _FolderReader(TraversableResources):
    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def files(self) -> Path:
        return self._folder
