"""`/admin/backup` and `/admin/restore`: all that administrators keep, page by page, out of a store and into another."""

from __future__ import annotations

import time
from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from dts.model import Operation, User
from dts.server.audit.log import DONE
from dts.server.backup.export import Export
from dts.server.backup.restore import Restore
from dts.server.handlers import validation_messages
from dts.server.handlers._base import DtsHandler, authorized
from dts.server.handlers.declare import declares

_MAX_PAGE = 32 * 1024 * 1024
"""Bytes of a page of a restore: a row may have results of 12 MiB, which are a third more in base64."""

Session = Annotated[str, Meta(pattern=validation_messages.SESSION)]


class BackupQuery(Struct, forbid_unknown_fields=True, kw_only=True):
    """Where the page begins: at the `next` of the one before; and whether unfinished work is wanted, too."""

    after: Annotated[str, Meta(max_length=1000)] = ""
    runs: bool = False


class BackupPage(Struct):
    """Rows of a backup, and where the next page begins; `next` is empty after the last."""

    rows: list[msgspec.Raw]
    next: str


class RestorePage(Struct, forbid_unknown_fields=True):
    """A page of a backup for a restore, all of whose pages have the same `session`."""

    session: Session
    rows: list[msgspec.Raw]


class RestoreParams(Struct, forbid_unknown_fields=True):
    """Which restore to carry out, and how many pages it has."""

    session: Session
    pages: Annotated[int, Meta(ge=1, le=10**9)]


class Staged(Struct):
    """How many rows of a page were taken."""

    rows: int


class RestoredView(Struct):
    """How many there are of each kind that were put back, and of records that were removed."""

    records: int
    operations: int
    documents: int
    runs: int
    blocks: int
    removed: int


class _BackupHandler(DtsHandler):
    def key_check(self) -> str:
        """What tells this server's key file from others."""
        return self.context.accounts.keys.derive("backup").hex()[:16]

    async def put_on_record(self, user: User, what: str, ops: dict[str, object]) -> None:
        """Note in the operation log what was done."""
        now = round(time.time(), 6)
        entry = Operation(now, user.id, self.client_address(), what, "", ops, DONE)
        await self.context.operations.append(entry)


class BackupAdminHandler(_BackupHandler):
    """`/admin/backup`: a page of a backup."""

    @authorized
    @declares(answer=BackupPage, query=BackupQuery)
    async def get(self, user: User) -> None:
        """Rows of a backup, from where the page before has ended. That somebody made one is on record."""
        query = self.query(BackupQuery)
        if not query.after:
            await self.put_on_record(user, "backup.read", {"runs": query.runs})
        page = await Export(self.context.store, self.key_check(), runs=query.runs).page(query.after)
        self.answer(BackupPage(page.rows, page.next))


class RestorePageAdminHandler(_BackupHandler):
    """`/admin/restore/N`: page N of a backup, from 0."""

    def body_limit(self) -> int:
        return max(_MAX_PAGE, super().body_limit())

    @authorized
    @declares(answer=Staged, body=RestorePage)
    async def put(self, user: User, number: str) -> None:
        """Keep a page until all are there; nothing else changes."""
        page = self.params(RestorePage)
        await Restore(self.context.store, self.key_check()).stage(page.session, int(number), page.rows)
        self.answer(Staged(len(page.rows)))


class RestoreAdminHandler(_BackupHandler):
    """`/admin/restore`: puts the pages of a backup into the store."""

    @authorized
    @declares(answer=RestoredView, body=RestoreParams)
    async def post(self, user: User) -> None:
        """Put all pages of a backup into the store; users last. What is in the store and not in the backup goes."""
        params = self.params(RestoreParams)
        done = await Restore(self.context.store, self.key_check()).apply(params.session, params.pages)
        self.context.accounts.forget(user.id)
        await self.put_on_record(user, "backup.restore", {"records": done.records, "operations": done.operations})
        self.answer(msgspec.convert(done, RestoredView, from_attributes=True))
