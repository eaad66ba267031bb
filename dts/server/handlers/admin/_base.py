"""What all records under `/admin/` have in common: lists, versions, changes on record, refusals."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar, Generic, TypeVar

import msgspec
from msgspec import Struct

from dts.model import AlertRule, Function, Namespace, Record, Route, Schedule, Silence, User, VirtualHost
from dts.model.ranges import RATE
from dts.model.secrets import Secret
from dts.server.access.roles import FIELDS, Scope, may_write, roles_for_field
from dts.server.consts import ErrorCode
from dts.server.context import Context
from dts.server.handlers._base import DtsHandler, authorized
from dts.server.handlers.admin.fields import ForceQuery, NoQuery, defaults, given, merge_patch
from dts.server.handlers.declare import declares
from dts.server.handlers.errors import ApiError
from dts.server.handlers.recorded import operation_logger, recorded
from dts.server.handlers.validation_messages import in_words
from dts.server.handlers.versions import check_version, etag
from dts.store.contract.records import Scalar, fields_of, record_from

R = TypeVar("R", User, Namespace, Function, VirtualHost, Schedule, Route, AlertRule, Silence, Secret)


class Deleted(Struct):
    """What is gone."""

    id: str


class Resource(Generic[R]):
    """A kind of records: its fields, and what is particular to it."""

    name: ClassVar[str]
    """As in the path, and in the operation log."""
    kind: type[R]
    fields: ClassVar[type[Struct]]
    """What can be written and read, with types and defaults."""
    initial: ClassVar[type[Struct]]
    """What POST takes."""
    changes: ClassVar[type[Struct]]
    """What PATCH takes."""
    view: ClassVar[type[Struct]]
    """What is answered."""
    filters: ClassVar[type[Struct]]
    """What the query of a list takes."""
    write_only: ClassVar[frozenset[str]] = frozenset()
    """Fields that are written and never read back."""
    creation: ClassVar[type[Struct]] = NoQuery
    """What the query of POST takes."""
    conflicts: ClassVar[tuple[ErrorCode, ...]] = ()
    """What PATCH and DELETE may be refused with that is particular to this kind."""

    def __init__(self, context: Context) -> None:
        self.context = context

    def check_id(self, record_id: object) -> str:
        """Return an id that may be given to a new record.

        Raises:
            InvalidName: it may not.
        """
        raise NotImplementedError

    def namespace_of(self, record_id: str) -> str | None:
        """The namespace that somebody has to belong to for this record; None when that does not matter."""
        return None

    def visible(self, user: User) -> dict[str, tuple[Scalar, ...]]:
        """What the records in the caller's own namespaces have in common, for a list."""
        return {}

    def write_secrets(self, record: R, secrets: Mapping[str, Any]) -> R:
        """The record with those write-only fields that are given."""
        return record

    async def check_new(self, record_id: str, query: Any) -> None:
        """Make sure that a record may be made under that id. Raises what the caller shall see if not."""

    async def check_allowed(self, record: R, before: R | None) -> None:
        """Make sure that a record may be written as it is. Raises what the caller shall see if not.

        `before` is what it is to take the place of, if anything: what was wrong there already may stay.
        """

    async def check_unused(self, record: R) -> None:
        """Make sure that nothing needs the record. Raises ApiError with IN_USE if something does."""

    async def dependents(self, record: R) -> Sequence[tuple[Resource[Any], Record]]:
        """What cannot be without the record, and is deleted before it."""
        return ()

    async def stop(self, record: R) -> None:
        """End what is under way on behalf of a record that is deleted though it is in use; called before and after."""

    async def written(self, record_id: str) -> None:
        """Do what follows from a record's being made, changed or deleted; called once it is stored.

        Raises:
            StoreUnavailable: it is stored, and what follows may not be done.
        """

    def forget(self, record_id: str) -> None:
        """Have this process read the record anew."""
        self.context.catalogue.forget(record_id)

    # from and to what requests and answers have

    def build(self, record_id: str, params: Struct, now: float) -> R:
        """A new record from what POST took."""
        plain = given(params)
        del plain["id"]
        secrets = {name: plain.pop(name) for name in self.write_only if name in plain}
        record = self._overlaid({"id": record_id, "created": now, "modified": now, "version": 1}, plain, secrets)
        return self.write_secrets(record, {name: value for name, value in secrets.items() if value is not None})

    def changed(self, record: R, params: Struct, now: float) -> R:
        """A record with what PATCH took."""
        plain = given(params)
        secrets = {name: plain.pop(name) for name in self.write_only if name in plain}
        before = _with_plain_limits(fields_of(record))
        names = self.fields.__struct_fields__
        merged = merge_patch({name: before.pop(name) for name in names}, plain)
        try:
            checked = given(msgspec.convert(merged, self.fields))
        except msgspec.ValidationError as error:
            raise ApiError(ErrorCode.ARGUMENT_INVALID, in_words(str(error))) from error
        after = self._overlaid(before, checked, secrets)
        return self.write_secrets(replace(after, version=record.version + 1, modified=now), secrets)

    def _overlaid(self, base: dict[str, Any], plain: dict[str, Any], secrets: Mapping[str, Any]) -> R:
        missing = {name: b"" for name in self.blank if name not in base}
        return record_from(self.kind, {**missing, **base, **plain})

    blank: ClassVar[frozenset[str]] = frozenset()
    """Fields of the record that its constructor needs and `write_secrets` fills in."""

    def show(self, record: R) -> Struct:
        """The record as it is answered."""
        fields = {name: value for name, value in fields_of(record).items() if not isinstance(value, bytes)}
        return msgspec.convert({**_with_plain_limits(fields), **self.extra(record)}, self.view)

    def own_values(self, record: R) -> dict[str, Any]:
        """The fields of a record that can be written and read, those that are not at their defaults."""
        usual = defaults(self.fields)
        shown = given(self.show(record))
        return {name: shown[name] for name, value in usual.items() if shown[name] != value}

    def extra(self, record: R) -> dict[str, Any]:
        """Further fields of the answer that are not in the record by these names."""
        return {}


class RecordsHandler(DtsHandler, Generic[R]):
    """A handler of records of one kind. Its subclasses say which."""

    resource: ClassVar[type[Resource[Any]]]

    def initialize(self, context: Context, template: str = "") -> None:
        super().initialize(context, template)
        self.records: Resource[R] = self.resource(context)
        self.name = self.resource.name

    def check_fields(self, user: User, names: Iterable[str], doing: str) -> None:
        """Make sure that the caller's roles allow to write these fields.

        Raises:
            ApiError: they do not; the message names the first such field.
        """
        for name in sorted(names):
            if not may_write(user.roles, self.name, name):
                needed = " or ".join(roles_for_field(self.name, name))
                message = f"{user.id} may not {doing} {name} of {self.name}: it needs the role {needed}"
                raise ApiError(ErrorCode.FORBIDDEN, message)


class AdminHandler(RecordsHandler[R]):
    """One record: `/admin/KIND/ID`. Its subclasses say which kind."""

    @authorized
    @declares(answer="view", headers=("ETag",))
    async def get(self, user: User, record_id: str) -> None:
        """The record, with its version as ETag."""
        self._answer_with(await self._find(user, record_id))

    @authorized
    @declares(answer="view", body="changes", headers=("ETag",), errors=(ErrorCode.VERSION_MISMATCH, ErrorCode.IN_USE))
    async def patch(self, user: User, record_id: str) -> None:
        """Change the fields that are given; null sets one back to its default."""
        params: Struct = self.params(self.resource.changes)
        self._check_reach(user, record_id)
        asked = given(params)
        self.check_fields(user, asked, "change")
        if (before := await self.context.store.get_record(self.records.kind, record_id)) is not None:
            if not asked:
                raise ApiError(ErrorCode.ARGUMENT_MISSING, "params names no field: give those that are to change")
            self.on_record = self._difference(asked, before, asked)
        self._answer_with(await self._update(user, record_id, params))

    @authorized
    @declares(answer=Deleted, query=ForceQuery, errors=(ErrorCode.VERSION_MISMATCH, ErrorCode.IN_USE))
    async def delete(self, user: User, record_id: str) -> None:
        """Delete the record, unless something still needs it; with `force` all the same."""
        query = self.query(ForceQuery)
        self._check_reach(user, record_id)
        if (before := await self.context.store.get_record(self.records.kind, record_id)) is not None:
            self.on_record = _last_words(self.records, before, query)
        self.answer(Deleted(await self._delete(user, record_id, query)))

    @operation_logger("{name}.update")
    async def _update(self, user: User, record_id: str, params: Struct) -> R:
        while True:
            record = await self._current(user, record_id)
            changed = self.records.changed(record, params, round(self.context.store.now(), 6))
            await self.records.check_allowed(changed, record)
            if await self.context.store.replace_record(changed, version=record.version):
                self.records.forget(record_id)
                await self.records.written(record_id)
                asked = given(params)
                self.on_record = self._difference(asked, record, asked | given(self.records.show(changed)))
                return changed

    @operation_logger("{name}.delete")
    async def _delete(self, user: User, record_id: str, query: ForceQuery) -> str:
        while True:
            record = await self._current(user, record_id)
            own = self.records.own_values(record)
            self.check_fields(user, (name for name in own if (self.name, name) in FIELDS), "take away")
            if query.force:
                await self.records.stop(record)
                for resource, dependent in await self.records.dependents(record):
                    await self._delete_dependent(user, resource, dependent)
            else:
                await self.records.check_unused(record)
            if await self.context.store.delete_record(self.records.kind, record_id, version=record.version):
                self.records.forget(record_id)
                await self.records.written(record_id)
                self.on_record = _last_words(self.records, record, query)
                if query.force:
                    await self.records.stop(record)  # also what has come meanwhile
                return record_id

    async def _delete_dependent(self, user: User, resource: Resource[Any], record: Record) -> None:
        """Delete a record that goes with another one; on record by itself."""
        store, now = self.context.store, record

        async def delete() -> None:
            nonlocal now
            while not await store.delete_record(type(now), now.id, version=now.version):
                newer = await store.get_record(resource.kind, now.id)
                if newer is None:
                    return  # somebody else has deleted it
                now = newer
            resource.forget(now.id)

        await recorded(
            self,
            user,
            f"{resource.name}.delete",
            record.id,
            ops=lambda: _last_words(resource, now, ForceQuery(force=True)),
            work=delete,
        )

    def _difference(self, asked: Mapping[str, Any], before: R, after: Mapping[str, Any]) -> dict[str, Any]:
        """What the log holds of an update: each field that was asked to change, as it was and as it is to be."""
        shown = given(self.records.show(before))
        return {
            name: {"from": shown[name], "to": after.get(name)} if name in shown else asked[name]
            for name in asked
            if name not in shown or shown[name] != after.get(name)
        }

    def _check_reach(self, user: User, record_id: str) -> None:
        """Make sure that the caller's roles reach this record."""
        namespace = self.records.namespace_of(record_id)
        if self.scope is Scope.MEMBER and namespace is not None:
            self.check_member(user, namespace)

    async def _find(self, user: User, record_id: str) -> R:
        self._check_reach(user, record_id)
        record = await self.context.store.get_record(self.records.kind, record_id)
        if record is None:
            raise ApiError(ErrorCode.NOT_FOUND, f"there is no {record_id[:80]!r} among the {self.name}")
        return record

    async def _current(self, user: User, record_id: str) -> R:
        """The record in the version that the caller has in mind."""
        record = await self._find(user, record_id)
        check_version(self.request.headers.get("If-Match"), record)
        return record

    def _answer_with(self, record: R) -> None:
        self.set_header("ETag", etag(record))
        self.answer(self.records.show(record))


class AdminListHandler(RecordsHandler[R]):
    """All records of a kind: `/admin/KIND/`. Its subclasses say which kind."""

    @authorized
    @declares(answer="views", query="filters")
    async def get(self, user: User) -> None:
        """Records by id, those that match all filters that are given."""
        where: dict[str, Any] = given(self.query(self.resource.filters))
        limit, after = where.pop("limit"), where.pop("after")
        if self.scope is Scope.MEMBER:
            for name, own in self.records.visible(user).items():
                if name in where and where[name] not in own:
                    self.answer([])  # the filter asks for what is somebody else's
                    return
                where.setdefault(name, own)
        found = await self.context.store.list_records(self.records.kind, where=where, limit=limit, after=after)
        self.answer([self.records.show(record) for record in found])

    @authorized
    @declares(
        answer="view",
        body="initial",
        query="creation",
        statuses=(201,),
        headers=("ETag",),
        errors=(ErrorCode.ALREADY_EXISTS, ErrorCode.IN_USE, ErrorCode.NAMESPACE_NOT_FOUND),
    )
    async def post(self, user: User) -> None:
        """Make a record."""
        query = self.query(self.resource.creation)
        params: Any = self.params(self.resource.initial)
        record_id = self.records.check_id(params.id)
        namespace = self.records.namespace_of(record_id)
        if self.scope is Scope.MEMBER and namespace is not None:
            self.check_member(user, namespace)
        usual = defaults(self.resource.fields)
        asked = {name: value for name, value in given(params).items() if value not in (usual.get(name), None)}
        self.check_fields(user, asked, "set")
        del asked["id"]
        self.on_record = asked | {name: value for name, value in given(query).items() if value}
        record = await self._create(user, record_id, (params, query))
        self.set_header("ETag", etag(record))
        self.answer(self.records.show(record), 201)

    @operation_logger("{name}.create")
    async def _create(self, user: User, record_id: str, asked: tuple[Struct, Struct]) -> R:
        params, query = asked
        record = self.records.build(record_id, params, round(self.context.store.now(), 6))
        await self.records.check_allowed(record, None)
        await self.records.check_new(record_id, query)
        await self.context.store.add_record(record)
        self.records.forget(record_id)
        await self.records.written(record_id)
        return record


def _last_words(records: Resource[Any], record: Any, query: ForceQuery) -> dict[str, Any]:
    """What the log holds of a deletion: all of the record that was not at its default."""
    lost = {name: {"from": value} for name, value in records.own_values(record).items()}
    return {"force": True, **lost} if query.force else lost


def _with_plain_limits(fields: dict[str, Any]) -> dict[str, Any]:
    """The fields of a record with those limits that there are, and a rate that an earlier version let be too low."""
    limits = {name: value for name, value in fields.get("limits", {}).items() if value is not None}
    if "requests_per_second" in limits:
        limits["requests_per_second"] = max(RATE.low, limits["requests_per_second"])
    return {**fields, "limits": limits} if "limits" in fields else fields
