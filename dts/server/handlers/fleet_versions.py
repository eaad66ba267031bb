"""`/fleet/versions/NS/FUNC/HASH`: sources for workers, which sign with the fleet's key."""

from __future__ import annotations

from functools import partial

from dts.model import parse_function_name
from dts.server.consts import ErrorCode
from dts.server.handlers._base import DtsHandler
from dts.server.handlers.admin.function_versions import CONTENT_ZIP, send_archive
from dts.server.handlers.declare import declares
from dts.server.versions import library
from dts.wire.archive import is_version
from dts.wire.fleet_access import fleet_credentials


class FleetVersionHandler(DtsHandler):
    """`/fleet/versions/NS/FUNC/HASH`: the source of a version, for workers."""

    @declares(gives=(CONTENT_ZIP,), errors=(ErrorCode.UNAUTHORIZED, ErrorCode.NAME_INVALID))
    async def get(self, namespace: str, function: str, version: str) -> None:
        """A zip archive of its files. The request is signed with the fleet's key, on behalf of no user."""
        await self._check_fleet()
        name = str(parse_function_name(f"{namespace}/{function}"))
        archive = await library.get_archive(self.context.store, name, version) if is_version(version) else None
        await send_archive(self, archive)

    async def _check_fleet(self) -> None:
        """Make sure that the fleet's key has signed the head of this request.

        Raises:
            AuthError: it has not, or the request was made before.
        """
        keys = fleet_credentials(self.context.seal)
        await self.authenticate_by(partial(self.context.accounts.authenticate_fleet, keys))
