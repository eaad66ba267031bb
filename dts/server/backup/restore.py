"""Puts a backup into a store: first its pages, beside everything else, then all of it at once.

The store should be a new one: what is in it and not in the backup goes, but for runs. Everything is put there in a way
that can be repeated, so a restore that broke off is simply done again. Users come late: until then requests are signed
as before. Schedules and what is to follow runs come last: timekeepers act on them as soon as they are there.
"""

from __future__ import annotations

import zlib
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import msgspec

from dts.errors import InvalidInput
from dts.model import (
    ADMINISTRATOR,
    Block,
    Candidate,
    Document,
    Operation,
    Record,
    Run,
    RunState,
    Schedule,
    User,
    bitmap,
)
from dts.model.secrets import Secret
from dts.server.backup.rows import (
    FORMAT,
    SET_GOING,
    BackupRow,
    BlockRow,
    DocumentRow,
    HeaderRow,
    OperationRow,
    PartRow,
    RecordRow,
    RunRow,
    SeededRow,
    decoded,
)
from dts.store import Store
from dts.store.contract.records import TABLES, from_json
from dts.wire import codec, dts_pb2

STAGED = "restore"

_KEEP = 24 * 3600.0
"""Seconds for which pages are kept of a restore that was not ended."""

_CHUNK = 8 * 1024 * 1024  # bytes of a page in one document


@dataclass
class Restored:
    """How much was put back."""

    records: int = 0
    operations: int = 0
    documents: int = 0
    runs: int = 0
    blocks: int = 0
    removed: int = 0


class Restore:
    """A restore into a store. `key_check` is that of this server's key file."""

    def __init__(self, store: Store, key_check: str) -> None:
        self._store = store
        self._key_check = key_check
        self._done = Restored()
        self._users: list[User] = []
        self._schedules: list[Schedule] = []
        self._set_going: list[DocumentRow] = []
        self._runs: list[Run] = []
        self._kept: dict[type[Record], set[str]] = {kind: set() for kind in TABLES}

    async def stage(self, session: str, number: int, rows: Sequence[msgspec.Raw]) -> None:
        """Keep a page of a backup until all of them are there; safe to repeat.

        Raises:
            InvalidInput: a row is none of a backup's, or is of one for another key file or of a later version.
            StoreUnavailable: the store does not answer.
        """
        try:
            found = [decoded(row) for row in rows]
        except msgspec.DecodeError as error:
            raise InvalidInput(f"page {number} is not one of a backup: {error}") from error
        if number == 0:
            self._check(found[0] if found else None)
        text = zlib.compress(msgspec.json.encode(rows), 1)
        expires = self._store.now() + _KEEP
        await self._store.put_documents(
            [
                Document(
                    STAGED,
                    f"{session}.{number:09}.{place:012}",
                    {},
                    group=session,
                    expires=expires,
                    body=text[place : place + _CHUNK],
                )
                for place in range(0, len(text), _CHUNK)
            ]
        )

    def _check(self, header: BackupRow | None) -> None:
        """Make sure that what a backup begins with is the header of one for this server."""
        if not isinstance(header, HeaderRow):
            raise InvalidInput("page 0 is not the beginning of a backup: that has a header first")
        if header.format != FORMAT:
            raise InvalidInput(
                f"the backup has format {header.format}, and this server knows {FORMAT}: restore it with DTS "
                f"{header.version}"
            )
        if header.key_check != self._key_check:
            raise InvalidInput(
                "the backup is of a server with another key file: start this one with a copy of that file ([server] "
                "key_file), or neither its users could sign in nor its operation log be verified"
            )

    async def apply(
        self, session: str, pages: int, refresh_secrets: Callable[[], Awaitable[None]] | None = None
    ) -> Restored:
        """Put all that was staged into the store. `refresh_secrets` has workers get the secrets that are on record.

        Raises:
            InvalidInput: a page is missing, or the store has an operation log of its own.
            StoreUnavailable: some of it may be there; repeat it.
        """
        if await self._pages(session) != pages:
            raise InvalidInput(f"not all of the {pages} pages are there: send them again")
        self._check(await anext(self._rows(session), None))
        await self._check_log(session)
        async for row in self._rows(session):
            await self._put(row)
        await self._remove_others(Secret)
        if refresh_secrets is not None:
            await refresh_secrets()
        await self._move_runs()
        await self._put_users()
        for schedule in self._schedules:
            await self._replace(schedule)
        for row in self._set_going:
            await self._put_document(row)
        await self._remove_others(*self._kept)
        await self._clear(session)
        return self._done

    async def _pages(self, session: str) -> int:
        return len({key.split(".")[1] for key in await self._staged(session)})

    async def _staged(self, session: str) -> list[str]:
        ids: list[str] = []
        after: str | None = None
        while page := await self._store.list_documents(STAGED, group=session, after=after):
            ids += [document.id for document in page]
            after = ids[-1]
        return ids

    async def _rows(self, session: str) -> AsyncIterator[BackupRow]:
        text, page = b"", ""
        for key in [*await self._staged(session), ""]:
            number = key.rpartition(".")[0]
            if text and number != page:
                for row in msgspec.json.decode(zlib.decompress(text), type=list[msgspec.Raw]):
                    yield decoded(row)
                text = b""
            if key:
                document = await self._store.get_document(STAGED, key, body=True)
                text += document.body if document is not None else b""
            page = number

    async def _check_log(self, session: str) -> None:
        """Make sure that the store's operation log is empty, or is the beginning of the backup's.

        Raises:
            InvalidInput: it is not: entries would have to be taken out of it.
        """
        last, digest = await self._store.operations_head()
        if not last:
            return
        async for row in self._rows(session):
            if isinstance(row, OperationRow) and row.fields["seq"] == last:
                if row.fields["hash"] == digest:
                    return
                break
        raise InvalidInput(
            f"the operation log of this store has {last} entries that are not those of the backup: restore into a "
            "store that nothing was changed in yet"
        )

    async def _put(self, row: BackupRow) -> None:
        store = self._store
        match row:
            case SeededRow(names):
                await store.note_seeded(names)
            case RecordRow():
                await self._put_record(row)
            case DocumentRow() if row.collection in SET_GOING:
                self._set_going.append(row)
            case DocumentRow():
                await self._put_document(row)
            case OperationRow(fields):
                await self._put_operation(Operation(**fields))
            case RunRow(run):
                await self._put_run(msgspec.convert(run, Run))
            case BlockRow(block):
                await self._put_block(msgspec.convert(block, Block))
            case PartRow():
                await store.record([_candidate(row)])

    async def _put_record(self, row: RecordRow) -> None:
        kind = next((kind for kind, table in TABLES.items() if table == row.table), None)
        if kind is None:
            return  # of a later version, which this one does not know
        record: Any = from_json(kind, row.json)  # type: ignore[type-var]
        self._kept[kind].add(record.id)
        if isinstance(record, User):
            self._users.append(record)
        elif isinstance(record, Schedule):
            self._schedules.append(record)
        else:
            await self._replace(record)

    async def _replace(self, record: Any) -> None:
        while True:
            there = await self._store.get_record(type(record), record.id)
            if there is None:
                await self._store.add_record(record)
            elif there != record and not await self._store.replace_record(record, version=there.version):
                continue  # somebody was faster
            self._done.records += 1
            return

    async def _put_users(self) -> None:
        """Users, administrators first: there must be one all the time."""
        for user in sorted(self._users, key=lambda user: ADMINISTRATOR not in user.roles or user.disabled):
            await self._replace(user)

    async def _remove_others(self, *kinds: type[Record]) -> None:
        """Remove the records that are not in the backup, such as functions that a new server registers."""
        for kind in kinds:
            for record in await self._store.list_records(kind, limit=None):  # type: ignore[type-var]
                if record.id not in self._kept[kind] and await self._store.delete_record(
                    kind, record.id, version=record.version
                ):
                    self._done.removed += 1

    async def _put_document(self, row: DocumentRow) -> None:
        await self._store.put_documents([Document(**msgspec.structs.asdict(row))])
        self._done.documents += 1

    async def _put_operation(self, entry: Operation) -> None:
        last, _ = await self._store.operations_head()
        if entry.seq <= last:
            return
        stored = await self._store.append_operation(replace(entry, seq=0, previous="", hash=""), lambda _: entry.hash)
        if (stored.seq, stored.previous) != (entry.seq, entry.previous):
            raise InvalidInput(
                f"entry {entry.seq} of the operation log does not follow entry {stored.seq - 1} in the backup: its log "
                "was damaged when the backup was made, or somebody changes this store now"
            )
        self._done.operations += 1

    async def _put_run(self, run: Run) -> None:
        if await self._store.get_run(run.id) is None:
            await self._store.add_run(replace(run, state=RunState.OPEN, paused=True, finished=None))
            self._done.runs += 1
        self._runs.append(run)

    async def _move_runs(self) -> None:
        """Bring runs into their states, now that their blocks and results are there; until then none is published."""
        for run in self._runs:
            await self._store.update_run(run.id, state=run.state, paused=run.paused)

    async def _put_block(self, block: Block) -> None:
        added = await self._store.add_blocks([replace(block, published=False, sent=0)])
        self._done.blocks += sum(added)

    async def _clear(self, session: str) -> None:
        await self._store.delete_documents(STAGED, await self._staged(session))


def _candidate(row: PartRow) -> Candidate:
    """Results as they were recorded: for the jobs of the part, whatever else is in its body."""
    jobs = int.from_bytes(row.jobs, "little")
    batch = codec.decode(dts_pb2.ResultBatch, row.body, row.content_encoding) if row.body else dts_pb2.ResultBatch()
    ended = {
        status: jobs & bitmap.from_indices(result.index for result in batch.results if result.status == status)
        for status in (dts_pb2.SUCCEEDED, dts_pb2.FAILED)
    }
    return Candidate(
        row.block,
        row.body,
        row.content_encoding,
        succeeded=ended[dts_pb2.SUCCEEDED],
        failed=ended[dts_pb2.FAILED],
        cancelled=jobs & ~ended[dts_pb2.SUCCEEDED] & ~ended[dts_pb2.FAILED],
        function=row.function,
    )
