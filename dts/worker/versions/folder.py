"""Writes a version's files to this host: the folder of a version is there as a whole, on disk, or not at all."""

from __future__ import annotations

import os
import secrets
import shutil
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from dts.wire.archive import Source, is_version
from dts.worker.link.versions import ENVIRONMENTS, VersionFolder

KEPT_VERSIONS = 20
"""Versions that stay on a host, however long they were not used."""

UNUSED_FOR = 30 * 86400.0
"""Seconds without use after which others go; a run that still wants one has it fetched again."""

_LEFT_BEHIND = 86400.0
"""Seconds after which what is half-written is nobody's any more."""


def write_version(
    folder: VersionFolder,
    namespace: str,
    source: Source,
    environment: Path | None,
    check: Callable[[Path], None] = lambda functions: None,
) -> None:
    """Have the files of a version in its folder, and a link to its environment.

    `check` may refuse them, by raising, when they are on disk and before they are the version. Raises OSError.
    """
    versions = folder.path.parent
    temporary = versions / f".{folder.path.name}.{secrets.token_hex(8)}.tmp"
    place = temporary / folder.functions.name / namespace
    try:
        place.mkdir(parents=True)
        for name, file in source.items():
            path = place / name
            path.parent.mkdir(parents=True, exist_ok=True)
            _write(path, file.data, 0o755 if file.executable else 0o644)
        if environment is not None:
            (temporary / "environment").symlink_to(os.path.relpath(environment, temporary))
        _sync_folders(path for path, _, _ in os.walk(temporary))
        check(temporary / folder.functions.name)
        _place(temporary, folder, namespace)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _place(temporary: Path, folder: VersionFolder, namespace: str) -> None:
    """Have what was written be the version, or a namespace of it if it is there for others."""
    try:
        try:
            temporary.rename(folder.path)
        except OSError:
            if not folder.functions.is_dir():
                raise
            (temporary / folder.functions.name / namespace).rename(folder.functions / namespace)
    except OSError:
        if not folder.has(namespace):  # by another worker on this host, which was faster
            raise
    _sync_folders([str(folder.functions), str(folder.path.parent)])


def prune_versions(versions: Path) -> None:
    """Remove what has not been used for long: versions, environments that none of those left needs, half-written ones.

    A version goes under another name before its files go, so it is never there in part.
    """
    now = time.time()
    found = sorted((path for path in versions.iterdir() if is_version(path.name)), key=_age_of)
    for path in found[KEPT_VERSIONS:]:
        if now - path.stat().st_mtime > UNUSED_FOR:
            gone = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
            path.rename(gone)
            shutil.rmtree(gone, ignore_errors=True)
    for path in versions.glob(".*.tmp"):
        if now - path.lstat().st_mtime > _LEFT_BEHIND:
            shutil.rmtree(path, ignore_errors=True)
    for path in versions.glob(".*.zip"):  # archives that were pushed, by a server that died then
        if now - path.lstat().st_mtime > _LEFT_BEHIND:
            path.unlink(missing_ok=True)
    needed = {VersionFolder(versions, path.name).environment for path in versions.iterdir() if is_version(path.name)}
    for path in (versions / ENVIRONMENTS).glob("*/"):
        if path.resolve() not in needed and now - path.stat().st_mtime > UNUSED_FOR:
            shutil.rmtree(path, ignore_errors=True)


def _age_of(path: Path) -> float:
    return -path.stat().st_mtime


def _write(path: Path, data: bytes, mode: int) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, mode)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
        file.flush()
        os.fchmod(file.fileno(), mode)
        os.fsync(file.fileno())


def _sync_folders(paths: Iterable[str]) -> None:
    for path in paths:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
