"""`/admin/dead/`: messages that nobody could handle, and another life for them."""

from __future__ import annotations

import msgspec
from msgspec import UNSET, Struct, UnsetType

from dts.model import DeadLetter, User
from dts.server.consts import ErrorCode
from dts.server.dead.replay import Replay, Replayed, field_of, matching_letters
from dts.server.handlers._base import DtsHandler, PageQuery, authorized
from dts.server.handlers.admin.fields import given
from dts.server.handlers.declare import declares
from dts.server.handlers.errors import ApiError
from dts.server.handlers.recorded import operation_logger


class LetterView(Struct):
    """A dead letter as answered, but for its body. `function`, `run` and `block` may be empty."""

    id: str
    queue: str
    reason: str
    died: float
    size: int
    function: str
    run: str
    block: str
    headers: dict[str, str | int]


class LettersQuery(PageQuery, forbid_unknown_fields=True, kw_only=True):
    """Which letters."""

    queue: str | UnsetType = UNSET
    reason: str | UnsetType = UNSET
    function: str | UnsetType = UNSET
    run: str | UnsetType = UNSET


class LettersWhere(Struct, forbid_unknown_fields=True, kw_only=True):
    """Which letters to replay: all that match every field."""

    id: str | UnsetType = UNSET
    queue: str | UnsetType = UNSET
    reason: str | UnsetType = UNSET
    function: str | UnsetType = UNSET
    run: str | UnsetType = UNSET


class ReplayParams(Struct, forbid_unknown_fields=True, kw_only=True):
    """Which letters to replay; `all` is for when `where` is empty."""

    where: LettersWhere
    all: bool = False


class DeadAdminHandler(DtsHandler):
    """`/admin/dead/`: dead letters."""

    @authorized
    @declares(answer=list[LetterView], query=LettersQuery)
    async def get(self, user: User) -> None:
        """Dead letters by id, those that match."""
        where = given(self.query(LettersQuery))
        limit, after = where.pop("limit"), where.pop("after")
        found: list[LetterView] = []
        async for letter in matching_letters(self.context.store, where, after):
            if len(found) >= limit:
                break
            found.append(_show(letter))
        self.answer(found)


class ReplayAdminHandler(DtsHandler):
    """`/admin/dead/replay`: another life for dead letters."""

    @authorized
    @declares(answer=Replayed, body=ReplayParams)
    async def post(self, user: User) -> None:
        """Replay the letters that match: jobs in new runs of the same users, other messages to their queues."""
        params = self.params(ReplayParams)
        where = given(params.where)
        if not where and not params.all:
            message = 'where is empty: say which letters, or all of them with "all": true'
            raise ApiError(ErrorCode.ARGUMENT_MISSING, message)
        self.answer(await self._replay(user, where.get("id", ""), params))

    @operation_logger("dead.replay")
    async def _replay(self, user: User, letter_id: str, params: ReplayParams) -> Replayed:
        context = self.context
        replay = Replay(user, context.store, context.broker, context.catalogue, context.publisher)
        try:
            async for letter in matching_letters(context.store, given(params.where)):
                await replay.replay(letter)
        finally:
            await replay.close()
        return replay.result


def _show(letter: DeadLetter) -> LetterView:
    fields = {name: field_of(letter, name) for name in ("id", "queue", "reason", "function", "run", "block")}
    return msgspec.convert(
        {**fields, "died": letter.died, "size": len(letter.body), "headers": dict(letter.headers)}, LetterView
    )
