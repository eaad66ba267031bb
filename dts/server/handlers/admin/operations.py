"""`/admin/operations/`: the log of what administrators did."""

from __future__ import annotations

from typing import Any, Literal

import msgspec
from msgspec import UNSET, Struct, UnsetType

from dts.model import User
from dts.server.consts import ErrorCode
from dts.server.handlers._base import DtsHandler, PageQuery, authorized
from dts.server.handlers.admin.fields import given
from dts.server.handlers.declare import declares
from dts.server.handlers.errors import ApiError


class OperationView(Struct):
    """An entry as answered."""

    seq: int
    timestamp: float
    operator: str
    address: str
    op_type: str
    doc_id: str
    ops: dict[str, Any]
    outcome: str
    begun: int | None
    previous: str
    hash: str


class OperationsQuery(PageQuery, forbid_unknown_fields=True, kw_only=True):
    """Which entries, and from which end."""

    order: Literal["newest", "oldest"] = "newest"
    doc_id: str | UnsetType = UNSET
    op_type: str | UnsetType = UNSET
    operator: str | UnsetType = UNSET
    outcome: str | UnsetType = UNSET
    address: str | UnsetType = UNSET


class Fault(Struct):
    """What is wrong with an entry."""

    seq: int
    problem: str


class VerdictView(Struct):
    """Whether the log is whole; `anchor` is the entry up to which this server's host had seen it before, if any."""

    valid: bool
    entries: int
    last: int
    anchor: int | None
    faults: list[Fault]


class OperationsAdminHandler(DtsHandler):
    """`/admin/operations/`: entries."""

    @authorized
    @declares(answer=list[OperationView], query=OperationsQuery)
    async def get(self, user: User) -> None:
        """Entries that match, from one end of the log."""
        where = given(self.query(OperationsQuery))
        limit, after, order = where.pop("limit"), where.pop("after"), where.pop("order")
        entries = await self.context.store.list_operations(
            where=where, limit=limit, after=_number(after), newest_first=order == "newest"
        )
        self.answer([msgspec.convert(entry, OperationView, from_attributes=True) for entry in entries])


class OperationAdminHandler(DtsHandler):
    """`/admin/operations/SEQ`: one entry."""

    @authorized
    @declares(answer=OperationView)
    async def get(self, user: User, seq: str) -> None:
        """The entry of that number."""
        number = int(seq)
        found = await self.context.store.list_operations(limit=1, after=number - 1, newest_first=False)
        if not found or found[0].seq != number:
            raise ApiError(ErrorCode.NOT_FOUND, f"there is no entry {number} in the operation log")
        self.answer(msgspec.convert(found[0], OperationView, from_attributes=True))


class VerifyAdminHandler(DtsHandler):
    """`/admin/operations/verify`: whether the log is whole."""

    @authorized
    @declares(answer=VerdictView)
    async def get(self, user: User) -> None:
        """Go through the whole log and tell what does not fit."""
        verdict = await self.context.operations.verify()
        faults = [Fault(**fault) for fault in verdict.faults]
        self.answer(VerdictView(not faults, verdict.entries, verdict.last, verdict.anchor, faults))


def _number(after: str | None) -> int | None:
    if after is None or (after.isascii() and after.isdigit() and len(after) <= 15):
        return None if after is None else int(after)
    raise ApiError(ErrorCode.ARGUMENT_INVALID, "after must be the number of an entry")
