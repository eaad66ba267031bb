"""`/admin/functions/NS/FUNC/versions/`: the deployed versions of a function, and their sources."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any, cast

from msgspec import Meta, Struct

from dts.model import Function, User, parse_function_name
from dts.server.access.roles import Scope
from dts.server.consts import ErrorCode
from dts.server.handlers._base import DtsHandler, authorized
from dts.server.handlers.declare import declares
from dts.server.handlers.errors import ApiError
from dts.server.handlers.recorded import operation_logger
from dts.server.versions import library
from dts.server.versions.library import Version
from dts.wire.archive import MAX_ARCHIVE, Source, unpack
from dts.wire.function_source import check_function_source

CONTENT_ZIP = "application/zip"


class DeployQuery(Struct, forbid_unknown_fields=True, kw_only=True):
    """Why it is deployed, and whether new jobs run it from now on."""

    message: Annotated[str, Meta(max_length=1000)] = ""
    activate: bool = True


class VersionView(Struct, kw_only=True):
    """A version as answered. `active` is whether new jobs run it; `size` is of its files together, in bytes."""

    version: str
    short: str
    function: str
    user: str
    created: float
    message: str
    files: tuple[str, ...]
    size: int
    requirements: bool
    deployed: bool
    pinned: bool
    active: bool


class VersionHandler(DtsHandler):
    """What requests about versions have in common."""

    async def function(self, user: User, name: str) -> Function:
        """The function of that name, if the caller's roles reach it.

        Raises:
            ApiError: there is none, or they do not.
        """
        name = name.replace("%2F", "/").replace("%2f", "/")
        parsed = parse_function_name(name)
        if self.scope is Scope.MEMBER:
            self.check_member(user, parsed.namespace)
        function = await self.context.store.get_record(Function, name)
        if function is None:
            raise ApiError(ErrorCode.NOT_FOUND, f"there is no {name!r} among the functions")
        return function

    async def version(self, function: Function, text: str) -> Version:
        """The version of a function that a hash or its beginning names. Raises ApiError when there is none."""
        return await library.resolve(self.context.store, function.name, text)


class FunctionVersionsHandler(VersionHandler):
    """`/admin/functions/NS/FUNC/versions/`: list them, deploy another one."""

    def body_limit(self) -> int:
        """Bytes of an archive at most, however small other bodies have to be."""
        return MAX_ARCHIVE

    @authorized
    @declares(answer=list[VersionView])
    async def get(self, user: User, name: str) -> None:
        """All versions that are kept, the one that was deployed last first."""
        function = await self.function(user, name)
        versions = await library.list_versions(self.context.store, function.name)
        self.answer([version_view(each, function) for each in versions])

    @authorized
    @declares(
        answer=VersionView,
        query=DeployQuery,
        statuses=(201,),
        accepts=(CONTENT_ZIP,),
        errors=(ErrorCode.NAME_INVALID, ErrorCode.TOO_LARGE, ErrorCode.UNSUPPORTED_MEDIA_TYPE),
    )
    async def post(self, user: User, name: str) -> None:
        """Store the source in the body, a zip archive, as a version; unless `activate` is false new jobs run it."""
        query = self.query(DeployQuery)
        if not query.message.isprintable():
            raise ApiError(ErrorCode.ARGUMENT_INVALID, "message must be one line of printable text")
        function = await self.function(user, name)
        if self.request.headers.get("Content-Type", CONTENT_ZIP).partition(";")[0].strip().lower() != CONTENT_ZIP:
            raise ApiError(ErrorCode.UNSUPPORTED_MEDIA_TYPE, f"Content-Type must be {CONTENT_ZIP}")
        source = await asyncio.to_thread(_checked, self.body(), function.name)
        version = library.new_version(function.name, source, user=user.id, message=query.message)
        self.on_record = {"version": version.hash, "message": version.message, "activate": query.activate}
        function = await self._deploy(user, function.name, (function, version, source, query.activate))
        self.answer(version_view(version, function), 201)

    @operation_logger("functions.deploy")
    async def _deploy(self, user: User, name: str, asked: Any) -> Function:
        function, version, source, activate = cast("tuple[Function, Version, Source, bool]", asked)
        store = self.context.store
        await library.add_version(store, version, source)
        if activate:
            function = await library.deploy(store, function, version)
            self.context.catalogue.forget(function.name)
        await library.drop_old_versions(store, function)
        return function


class FunctionVersionHandler(VersionHandler):
    """`/admin/functions/NS/FUNC/versions/VERSION`: one."""

    @authorized
    @declares(answer=VersionView)
    async def get(self, user: User, name: str, version: str) -> None:
        """What is on record of it; the first digits of its hash will do."""
        function = await self.function(user, name)
        self.answer(version_view(await self.version(function, version), function))


class FunctionSourceHandler(VersionHandler):
    """`/admin/functions/NS/FUNC/versions/VERSION/source`: its files."""

    @authorized
    @declares(gives=(CONTENT_ZIP,))
    async def get(self, user: User, name: str, version: str) -> None:
        """A zip archive of its files."""
        function = await self.function(user, name)
        found = await self.version(function, version)
        await send_archive(self, await library.get_archive(self.context.store, function.name, found.hash))


async def send_archive(handler: DtsHandler, archive: bytes | None) -> None:
    """Answer with an archive, or that there is none any more."""
    if archive is None:
        raise ApiError(ErrorCode.NOT_FOUND, "there is no such version")
    handler.set_header("Content-Type", CONTENT_ZIP)
    await handler.finish(archive)


def version_view(version: Version, function: Function) -> VersionView:
    """A version as answered."""
    return VersionView(
        version=version.hash,
        short=version.short,
        function=version.function,
        user=version.user,
        created=version.created,
        message=version.message,
        files=version.files,
        size=version.size,
        requirements=version.requirements,
        deployed=version.hash == function.deployed,
        pinned=version.hash == function.pinned,
        active=version.hash == function.active_version,
    )


def _checked(body: bytes, function: str) -> Source:
    source = unpack(body)
    check_function_source(source, function)
    return source
