"""Reads a store for a backup, page by page, while it is in use.

Records come before the operation log, so the log has every change that is in the records, and perhaps some that were
made meanwhile and are not. A page ends after a megabyte; the token of its last row says where the next one begins.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from dataclasses import asdict, dataclass

import msgspec

from dts.errors import InvalidInput
from dts.model import LAST_OPERATION, Document, Run, block_id
from dts.server.backup.rows import (
    DOCUMENTS,
    FORMAT,
    OF_RUNS,
    BackupRow,
    BlockRow,
    DocumentRow,
    HeaderRow,
    OperationRow,
    PartRow,
    RecordRow,
    RunRow,
    SeededRow,
    encoded,
)
from dts.server.intake.following import FOLLOWING
from dts.store import Store
from dts.store.contract.records import TABLES, to_json
from dts.version import __version__

_PAGE_BYTES = 1024 * 1024
_PAGE_ROWS = 500
_AT_ONCE = 100
_TIME = 10  # characters at the beginning of an id that are its time

_PAGE_SECONDS = 5.0
"""Seconds after which a page ends, even without rows: looking for unfinished runs among many others takes long."""

_SKIP = -2
"""The number of a block in the cursor after a run that the backup has nothing more of."""

Rows = AsyncIterator[tuple[str, BackupRow | None]]
"""Rows, each with the cursor after it: what comes next in its section begins there. None is no row, but progress."""


@dataclass(frozen=True, slots=True)
class Page:
    """Rows as JSON, and where the next page begins; empty for no more."""

    rows: list[msgspec.Raw]
    next: str


class Export:
    """A backup of a store. `key_check` goes into its header."""

    def __init__(self, store: Store, key_check: str, *, runs: bool, seconds: float = _PAGE_SECONDS) -> None:
        self._store = store
        self._key_check = key_check
        self._runs = runs
        self._seconds = seconds
        self._sections: dict[str, Callable[[str], Rows]] = {"header": self._header, "seeded": self._seeded}
        for kind, table in TABLES.items():
            self._sections[f"record.{table}"] = lambda after, kind=kind: self._records(kind, after)  # type: ignore[misc]
        for name in (*DOCUMENTS, *(OF_RUNS if runs else ())):
            self._sections[f"document.{name}"] = lambda after, name=name: self._documents(name, after)  # type: ignore[misc]
        if runs:
            self._sections["runs"] = self._unfinished
        self._sections["operations"] = self._operations

    async def page(self, token: str) -> Page:
        """The rows from a token on; the first page has the token "".

        Raises:
            InvalidInput: the token is none.
            StoreUnavailable: the store does not answer.
        """
        names = list(self._sections)
        section, _, cursor = token.partition("|")
        section = section or names[0]
        if section not in self._sections:
            raise InvalidInput(f"after: {token[:80]!r} is not where a page of a backup begins")
        rows: list[msgspec.Raw] = []
        size, end = 0, time.monotonic() + self._seconds
        for name in names[names.index(section) :]:
            async for after, row in self._sections[name](cursor):
                if row is not None:
                    rows.append(encoded(row))
                    size += len(bytes(rows[-1]))
                if size >= _PAGE_BYTES or len(rows) >= _PAGE_ROWS or time.monotonic() >= end:
                    return Page(rows, f"{name}|{after}")
            cursor = ""
        return Page(rows, "")

    async def _header(self, after: str) -> Rows:
        if not after:
            yield (
                "1",
                HeaderRow(
                    format=FORMAT,
                    version=__version__,
                    created=self._store.now(),
                    key_check=self._key_check,
                    runs=self._runs,
                ),
            )

    async def _seeded(self, after: str) -> Rows:
        if not after:
            yield "1", SeededRow(sorted(await self._store.list_seeded()))

    async def _records(self, kind: type, after: str) -> Rows:
        place: str | None = after or None
        while page := await self._store.list_records(kind, limit=_AT_ONCE, after=place):
            for record in page:
                yield record.id, RecordRow(TABLES[kind], to_json(record))
            place = page[-1].id

    async def _documents(self, collection: str, after: str) -> Rows:
        place: str | None = after or None
        while page := await self._store.list_documents(collection, after=place, limit=_AT_ONCE):
            for found in page:
                document = await self._store.get_document(collection, found.id, body=True)
                if document is not None:
                    yield document.id, _document_row(document)
            place = page[-1].id

    async def _operations(self, after: str) -> Rows:
        place = int(after or 0)
        while place < LAST_OPERATION and (
            page := await self._store.list_operations(limit=_AT_ONCE, after=place, newest_first=False)
        ):
            for entry in page:
                yield str(entry.seq), OperationRow(asdict(entry))
            place = page[-1].seq

    async def _unfinished(self, after: str) -> Rows:
        """Runs that have not finished or are still followed, newest first, each with its blocks and their results."""
        run_id, number, done = [*after.split(), "-1", "0"][:3] if after else ("", "-1", "0")
        if run_id and int(number) != _SKIP and (run := await self._store.get_run(run_id)) is not None:
            async for item in self._blocks(run, int(number), int(done)):
                yield item
        place = run_id or None
        while page := await self._store.list_runs(limit=_AT_ONCE, after=place):
            needed = await self._needed(page[-1].id, page[0].id)
            for run in page:
                if run.finished is None or run.follow_up or run.id in needed:
                    yield run.id, RunRow(msgspec.to_builtins(run))
                    async for item in self._blocks(run, -1, 0):
                        yield item
            place = page[-1].id
            yield f"{place} {_SKIP} 0", None

    async def _needed(self, oldest: str, newest: str) -> set[str]:
        """Of the runs between two, those whose results are still to be passed on, reduced or told of.

        A round of a reduction has the time in its id that the run has which it is made for.
        """
        needed: set[str] = set()
        place: str | None = oldest[:_TIME]
        while page := await self._store.list_documents(FOLLOWING, after=place):
            for document in page:
                if document.id[:_TIME] > newest[:_TIME]:
                    return needed
                if document.due is not None:
                    needed |= {document.id, document.data.get("progress", {}).get("source", "")}
            place = page[-1].id
        return needed

    async def _blocks(self, run: Run, after: int, done: int) -> Rows:
        """The blocks of a run that follow number `after`; before them the rows of that one after the first `done`."""
        if done:
            async for item in self._block(run, after, done):
                yield item
        while page := await self._store.list_blocks(run.id, limit=_AT_ONCE, after=after):
            for outcome in page:
                after = int(outcome.block.rpartition("-")[2])
                async for item in self._block(run, after, 0):
                    yield item

    async def _block(self, run: Run, number: int, done: int) -> Rows:
        """A block and its results, but for the first `done` rows."""
        block = await self._store.get_block(block_id(run.id, number))
        if block is None:
            return
        if not done:
            yield f"{run.id} {number} 1", BlockRow(msgspec.to_builtins(block))
        for index, part in enumerate(await self._store.get_parts(block.id), 1):
            if index >= done:
                jobs = part.jobs.to_bytes((part.jobs.bit_length() + 7) // 8, "little")
                row = PartRow(block.id, block.function, jobs, part.body, part.content_encoding)
                yield f"{run.id} {number} {index + 1}", row


def _document_row(document: Document) -> DocumentRow:
    return DocumentRow(
        document.collection,
        document.id,
        dict(document.data),
        document.group,
        document.due,
        document.expires,
        document.body,
    )
