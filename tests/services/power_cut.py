"""What is known of SQLite files at the moment of a power cut: how each commit was flushed, and what the files hold."""

from __future__ import annotations

import shutil
import sqlite3
from pathlib import Path
from typing import Any

FULL = 2
"""`PRAGMA synchronous` of a connection whose commits return when the write-ahead log is on the disk."""


class Commits:
    """Notes the flushing of every commit to a file of that name, once it takes the place of `sqlite3.connect`."""

    def __init__(self, name: str) -> None:
        self.levels: list[int] = []
        self._connect = sqlite3.connect
        self._name = name

    def connect(self, path: Path, **options: Any) -> sqlite3.Connection:
        """As `sqlite3.connect`."""
        if Path(path).name != self._name:
            return self._connect(path, **options)
        levels = self.levels

        class Watched(sqlite3.Connection):
            def execute(self, sql: str, *values: Any) -> sqlite3.Cursor:
                if sql == "COMMIT":
                    self._note()
                return super().execute(sql, *values)

            def commit(self) -> None:
                self._note()
                super().commit()

            def _note(self) -> None:
                levels.append(super().execute("PRAGMA synchronous").fetchone()[0])

        return self._connect(path, factory=Watched, **options)

    def taken(self) -> list[int]:
        """The commits since the last call."""
        levels = self.levels[:]
        self.levels.clear()
        return levels


def copy(path: Path, folder: Path, *, cut: int = 0) -> Path:
    """The file and its log as they are on the disk, without the last `cut` bytes of the log; no process knows them."""
    folder.mkdir(parents=True)
    for name in (path.name, f"{path.name}-wal"):
        shutil.copyfile(path.with_name(name), folder / name)
    log = folder / f"{path.name}-wal"
    with log.open("r+b") as file:
        file.truncate(max(0, log.stat().st_size - cut))
    return folder / path.name
