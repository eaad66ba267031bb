"""`/admin/backup` and `/admin/restore`: all that administrators keep, page by page, out of a store and into another."""

from __future__ import annotations

import hmac
import time
from functools import partial
from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from dts.model import Operation, User
from dts.server.access.secret_sets import refresh_all
from dts.server.audit.log import DONE
from dts.server.backup.export import Export
from dts.server.backup.restore import Restore
from dts.server.consts import ErrorCode
from dts.server.handlers import validation_messages
from dts.server.handlers._base import DtsHandler, authorized
from dts.server.handlers.declare import declares
from dts.server.handlers.errors import ApiError

_MAX_PAGE = 32 * 1024 * 1024
"""Bytes of a page of a restore: a row may have results of 12 MiB, which are a third more in base64."""

_RECORD_AGAIN = 3600.0
"""Seconds after a page for which the next one is of the same backup: later, it is on record as one more."""

Session = Annotated[str, Meta(pattern=validation_messages.SESSION)]


class BackupQuery(Struct, forbid_unknown_fields=True, kw_only=True):
    """Where the page begins: at the `next` of the one before; and whether unfinished work is wanted, too."""

    after: Annotated[str, Meta(max_length=2000)] = ""
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
        query, store = self.query(BackupQuery), self.context.store
        given, token = self._place_of(user, query) if query.after else (0.0, "")
        if store.now() - given > _RECORD_AGAIN:
            await self.put_on_record(user, "backup.read", {"runs": query.runs})
        page = await Export(store, self.key_check(), runs=query.runs).page(token)
        self.answer(BackupPage(page.rows, self._signed(user, query, store.now(), page.next) if page.next else ""))

    def _signed(self, user: User, query: BackupQuery, given: float, token: str) -> str:
        """Where a page begins, as a client gets it: only who has the page before can ask for this one."""
        plain = f"{given:.0f}.{token}"
        key = self.context.accounts.keys.derive("backup pages")
        return (
            hmac.digest(key, f"{user.id} {query.runs} {plain}".encode(errors="surrogatepass"), "sha256").hex()
            + "."
            + plain
        )

    def _place_of(self, user: User, query: BackupQuery) -> tuple[float, str]:
        """When a page was given, and where the next one begins.

        Raises:
            ApiError: this server did not give it, or gave it to somebody else.
        """
        _, _, plain = query.after.partition(".")
        given, _, token = plain.partition(".")
        if given.isdecimal():
            signed = self._signed(user, query, float(given), token).encode(errors="surrogatepass")
            if hmac.compare_digest(signed, query.after.encode(errors="surrogatepass")):
                return float(given), token
        message = f"after: {query.after[:80]!r} is not the `next` of a page of this backup"
        raise ApiError(ErrorCode.ARGUMENT_INVALID, message)


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
        context = self.context
        refresh = partial(refresh_all, context.store, context.accounts.keys, context.seal)
        done = await Restore(context.store, self.key_check()).apply(params.session, params.pages, refresh)
        self.context.accounts.forget(user.id)
        await self.put_on_record(user, "backup.restore", {"records": done.records, "operations": done.operations})
        self.answer(msgspec.convert(done, RestoredView, from_attributes=True))
