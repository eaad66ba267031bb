"""Where the deployed versions of functions are on a host, and which child may run one.

VERSIONS/<hash>/functions/<namespace>/…     the files of a version, all of them or no such folder; the same files may
                                            be a version in several namespaces
VERSIONS/<hash>/environment                 a link to its environment, if it has requirements
VERSIONS/<hash>.error                       why the version could not be had, when it was tried last
VERSIONS/environments/<key>/                a virtual environment, shared by versions with the same requirements
"""

from __future__ import annotations

import os
import time
from contextlib import suppress
from pathlib import Path

from dts.wire.archive import SHORT

ENVIRONMENTS = "environments"

_NOTE_EVERY = 3600.0
"""Seconds between two notes that a version is in use: it goes after a month without one."""


def namespace_of(function: str) -> str:
    """The namespace of a function `ns/func`."""
    return function.partition("/")[0]


def scope_of(function: str, version: str) -> str:
    """What a child belongs to that runs a function: its namespace, or one deployed version."""
    namespace = namespace_of(function)
    return f"{namespace}@{version}" if version else namespace


class VersionFolder:
    """The place of a version, whose hash has been checked to be one, below the folder of all of them."""

    def __init__(self, versions: Path, version: str) -> None:
        self.path = versions / version
        self.short = version[:SHORT]
        self._error = versions / f"{version}.error"

    def has(self, namespace: str) -> bool:
        """Whether the version is there for functions of a namespace, with all that it needs."""
        return (self.functions / namespace).is_dir()

    @property
    def functions(self) -> Path:
        """The folder that stands in for the functions directory."""
        return self.path / "functions"

    @property
    def environment(self) -> Path | None:
        """The virtual environment that the version needs; None if it needs none."""
        link = self.path / "environment"
        return link.resolve() if link.is_symlink() else None

    def note_use(self) -> None:
        """Note that the version is in use, so that it stays: once an hour."""
        with suppress(OSError):  # it may be another user's
            if time.time() - self.path.stat().st_mtime > _NOTE_EVERY:
                os.utime(self.path)

    def read_error(self) -> str:
        """Why the version could not be had; empty if nobody has noted that."""
        with suppress(OSError):
            return self._error.read_text(encoding="utf-8", errors="replace")
        return ""

    def note_error(self, error: str) -> None:
        """Note why the version could not be had, for the children that its jobs fail in; empty for nothing."""
        with suppress(OSError):
            if error:
                self._error.parent.mkdir(parents=True, exist_ok=True)
                self._error.write_text(error, encoding="utf-8")
            else:
                self._error.unlink(missing_ok=True)
