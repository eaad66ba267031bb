"""`/whoami`: the caller."""

from __future__ import annotations

import time

import msgspec
from msgspec import UNSET, Struct, UnsetType

from dts.errors import AuthError
from dts.model import User
from dts.server.consts import ErrorCode
from dts.server.handlers._base import DtsHandler, authorized
from dts.server.handlers.admin.fields import Secret
from dts.server.handlers.admin.users import Users, UserView
from dts.server.handlers.declare import declares
from dts.server.handlers.recorded import operation_logger
from dts.server.handlers.versions import check_version, etag
from dts.wire.numbers import Wait


class NewSecret(Struct, forbid_unknown_fields=True):
    """A new secret, and for how many seconds the previous one is accepted, too."""

    secret: Secret
    grace: Wait | UnsetType = UNSET


class WhoamiHandler(DtsHandler):
    """`/whoami`: what the server knows of who asks."""

    name = "users"

    @authorized
    @declares(answer=UserView, headers=("ETag",))
    async def get(self, user: User) -> None:
        """The caller's own record, with its version as ETag."""
        self._answer_with(user)

    @authorized
    @declares(answer=UserView, body=NewSecret, headers=("ETag",), errors=(ErrorCode.VERSION_MISMATCH,))
    async def patch(self, user: User) -> None:
        """Give oneself a new secret."""
        self._answer_with(await self._rotate(user, user.id, self.params(NewSecret)))

    def _answer_with(self, user: User) -> None:
        self.set_header("ETag", etag(user))
        self.answer(Users(self.context).show(user))

    @operation_logger("{name}.rotate")
    async def _rotate(self, user: User, record_id: str, params: NewSecret) -> User:
        users = Users(self.context)
        changes = msgspec.convert(msgspec.to_builtins(params), users.changes)
        while True:
            record = await self.context.store.get_user(record_id)
            if record is None:  # deleted a moment ago
                raise AuthError
            check_version(self.request.headers.get("If-Match"), record)
            changed = users.changed(record, changes, round(time.time(), 6))
            if await self.context.store.replace_record(changed, version=record.version):
                users.forget(record_id)
                return changed
