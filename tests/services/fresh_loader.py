"""Loads functions as the children of a worker do: a change of their files takes a fresh child."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Self

from dts.worker.child.code.loader import Loaded, Loader


class Fresh:
    """In place of each child a loader; it is replaced when files have changed, as the child would be."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.current = Loader(directory)
        self.replaced = 0

    def __enter__(self) -> Self:
        self.current.open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.current.close()

    def load(self, name: str) -> Loaded:
        if self.current.change():
            self.current.close()
            self.current = Loader(self._directory)
            self.current.open()
            self.replaced += 1
        return self.current.load(name)
