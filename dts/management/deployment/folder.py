"""Reads the source of a function from a file or a folder."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

from dts.errors import InvalidInput
from dts.wire.archive import MAX_SOURCE, SourceFile, check_source
from dts.wire.function_source import check_function_source, entry_of

_PASSED_OVER = frozenset({"__pycache__", "node_modules", "venv"})
_PASSED_OVER_ENDS = (".pyc", ".pyo", ".egg-info", "~", ".swp")


def read_source(path: Path, function: str) -> dict[str, SourceFile]:
    """The files of a function: a single module, or a folder with all that is in it.

    Hidden files, caches and virtual environments are passed over. A `main.py` stands for the module with the function's
    name where there is none.

    Raises:
        InvalidInput: there is no such file, or it cannot be a function's source; the message says why.
    """
    entry = entry_of(function)
    try:
        source = dict(_files_of(path)) if path.is_dir() else {entry: SourceFile(path.read_bytes())}
    except OSError as error:
        raise InvalidInput(f"{path} cannot be read: {error}") from error
    if entry not in source and "main.py" in source:
        source[entry] = source.pop("main.py")
    check_source(source)
    check_function_source(source, function)
    return source


def _files_of(folder: Path) -> Iterator[tuple[str, SourceFile]]:
    root, left = folder.resolve(), MAX_SOURCE
    for place, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not _is_passed_over(name, Path(place) / name))
        linked = [name for name in folders if (Path(place) / name).is_symlink()]
        if linked:
            raise InvalidInput(f"{Path(place) / linked[0]} is a link to a folder: copy the folder there instead")
        for name in sorted(names):
            path = Path(place) / name
            if _is_passed_over(name, path):
                continue
            file = _read(path, root, left)
            left -= len(file.data)
            yield path.relative_to(folder).as_posix(), file


def _read(path: Path, root: Path, left: int) -> SourceFile:
    """One file; a link counts as what it leads to, if that is in the folder, too."""
    target = path.resolve()
    if path.is_symlink() and not target.is_relative_to(root):
        raise InvalidInput(f"{path} is a link that leads out of the folder, to {target}: copy the file there instead")
    status = target.stat()
    if not stat.S_ISREG(status.st_mode):
        raise InvalidInput(f"{path} is no plain file: only plain files can be part of a function")
    if status.st_size > left:
        raise InvalidInput(
            f"the files in {root} have more than {MAX_SOURCE} bytes together: keep models and data out of the folder"
        )
    return SourceFile(target.read_bytes(), bool(status.st_mode & stat.S_IXUSR))


def _is_passed_over(name: str, path: Path) -> bool:
    hidden = name.startswith(".") or name in _PASSED_OVER or name.endswith(_PASSED_OVER_ENDS)
    return hidden or (path / "pyvenv.cfg").exists()
