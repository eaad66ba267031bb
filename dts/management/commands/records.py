"""The commands of everything that is added, read, changed and deleted: users, namespaces, functions, vhosts."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from functools import partial
from operator import attrgetter
from typing import Any, cast

from dts.errors import InvalidInput, RequestRefused
from dts.management.api.resources import Record, Records
from dts.management.client import AdminClient
from dts.management.shell.arguments import FORCE, LIMIT, SECRET_FILE, Arguments, Flag
from dts.management.shell.fields import Field, Kind, find_field
from dts.management.shell.grammar import Command, command
from dts.management.shell.output import Column, limit_of
from dts.management.shell.secrets import Secret, choose_secret
from dts.management.shell.session import Session

ADOPT = Flag("--force", "even if runs of a former user of that name are kept: they become the new one's")

_NOT_FOUND = 404

SHARE_FIELDS = (
    Field("weight", Kind.NUMBER, "share of the work beside others, which have 1"),
    Field("paused", Kind.BOOLEAN, "jobs are accepted and wait"),
)

LIMIT_FIELDS = (
    Field("limits.unfinished", Kind.INTEGER, "jobs accepted and not ended, at most", optional=True),
    Field("limits.requests_per_second", Kind.NUMBER, "requests a second, at most", optional=True),
    Field("limits.running", Kind.INTEGER, "jobs at work at once, at most", optional=True),
    Field("limits.priority", Kind.INTEGER, "priority that its jobs may have, at most", optional=True),
    Field("limits.retention", Kind.SECONDS, "how long a finished run is kept", optional=True),
)


@dataclass(frozen=True, slots=True)
class RecordKind:
    """One kind of record: `noun` as in the commands, `one` of it in a sentence, what may be written, what is listed.

    `filters` may select what `get` lists. `example`, `change` and `selection` are how `add`, `update` and `get` may be
    used. `reads` are fields that are only read. `add` takes `add_flags`, too, and `complete` adds to its fields.
    """

    noun: str
    one: str
    fields: tuple[Field, ...]
    columns: tuple[Column, ...]
    filters: tuple[Field, ...]
    example: str
    change: str
    selection: str
    reads: tuple[str, ...] = ("created", "modified", "version")
    has_secret: bool = False
    add_flags: tuple[Flag, ...] = ()
    complete: Callable[[Session, Arguments, str, dict[str, object]], Awaitable[None]] | None = None
    resource: str = ""
    """Where AdminClient has them, if that is not by the noun; with a dot for what is inside another resource."""

    @property
    def pausable(self) -> bool:
        """Whether jobs of such a record can be held back."""
        return any(each.name == "paused" for each in self.fields)

    def records(self, client: AdminClient) -> Records:
        """The records at the server."""
        return cast("Records", attrgetter(self.resource or self.noun)(client))

    @property
    def readable(self) -> tuple[Field, ...]:
        """What `get ID FIELD…` may ask for."""
        written = (each for each in self.fields if each.kind not in (Kind.SECRET, Kind.FILE) and "." not in each.name)
        limits = (Field("limits", Kind.OBJECT, "limits"),) if self.fields_of_limits else ()
        return (
            Field("id", Kind.TEXT, "id"),
            *(each for each in written if each.name != "grace"),
            *limits,
            *(Field(name, Kind.TEXT, name) for name in self.reads),
        )

    @property
    def fields_of_limits(self) -> tuple[Field, ...]:
        """Those that are part of `limits`."""
        return tuple(each for each in self.fields if each.name.startswith("limits."))


def commands_of(kind: RecordKind) -> tuple[Command, ...]:
    """`add`, `get`, `update` and `delete` for one kind of record; `pause` and `resume` where its jobs may wait."""
    held = (_pause(kind, paused=True), _pause(kind, paused=False)) if kind.pausable else ()
    return _add(kind), _get(kind), _update(kind), _delete(kind), *held


def _add(kind: RecordKind) -> Command:
    extra = " It needs a secret, which is asked for when none is given." if kind.has_secret else ""

    @command(
        f"{kind.noun} add",
        "ID [FIELD=VALUE …]",
        words=(1, 1),
        fields=tuple(each for each in kind.fields if each.initial),
        flags=(SECRET_FILE, ADOPT) if kind.has_secret else kind.add_flags,
        examples=(f"{kind.noun} add {kind.example}",),
        one=kind.one,
        extra=extra,
    )
    async def add(session: Session, arguments: Arguments) -> None:
        """Add a {one}.{extra}"""
        record_id = arguments.word(0)
        values = _nested(arguments.values)
        client = await session.client()
        if kind.complete is not None:
            await kind.complete(session, arguments, record_id, values)
        secret = Secret()
        if kind.has_secret:
            check = partial(_check_free, kind, client, record_id)
            secret = await choose_secret(session, arguments, record_id, ask=True, check=check)
        with secret.handed_over(record_id):
            fields: dict[str, Any] = values | secret.fields
            record = await kind.records(client).add(record_id, force=arguments.has(ADOPT), **fields)
        _report(session, arguments, f"{kind.one} {record_id} added", record)

    return add


def _get(kind: RecordKind) -> Command:
    @command(
        f"{kind.noun} get",
        "[ID [FIELD …]] [FIELD=VALUE …]",
        words=(0, 100),
        fields=kind.filters,
        flags=(LIMIT,),
        examples=(
            f"{kind.noun} get",
            f"{kind.noun} get {kind.example.partition(' ')[0]} {kind.readable[1].name}",
            f"{kind.noun} get {kind.selection} --json",
        ),
        ids=kind.noun,
        readable=tuple(each.name for each in kind.readable),
        one=kind.one,
        noun=kind.noun,
    )
    async def get(session: Session, arguments: Arguments) -> None:
        """List {noun}, or show one {one}, or some fields of it.

        Without an ID, FIELD=VALUE selects: all given ones must match. A field that is a list matches a value in it.
        """
        output = session.output(arguments)
        if not arguments.words:
            limit = limit_of(arguments.number(LIMIT), as_json=output.as_json)
            pages = kind.records(await session.client()).pages(limit=limit, **arguments.values)
            await output.rows(pages, kind.columns, limit=limit, what=kind.noun)
            return
        if arguments.values:
            raise InvalidInput(f"{kind.noun} get takes an ID or FIELD=VALUE, not both")
        fields = [find_field(name, kind.readable).name for name in arguments.words[1:]]
        output.record(await kind.records(await session.client()).get(arguments.word(0)), fields=fields)

    return get


def _update(kind: RecordKind) -> Command:
    extra = " With secret= and nothing after it you are asked for the new one." if kind.has_secret else ""

    @command(
        f"{kind.noun} update",
        "ID FIELD=VALUE …",
        words=(1, 1),
        fields=tuple(each for each in kind.fields if each.updatable),
        flags=(SECRET_FILE,) if kind.has_secret else (),
        examples=(f"{kind.noun} update {kind.change}",),
        ids=kind.noun,
        one=kind.one,
        extra=extra,
    )
    async def update(session: Session, arguments: Arguments) -> None:
        """Change fields of a {one}; the others stay.{extra}

        When somebody else changes it at the same time nothing of theirs is overwritten: the command then says so.
        """
        record_id = arguments.word(0)
        values = _nested(arguments.values)
        if not (values or arguments.has(SECRET_FILE)):
            raise InvalidInput(f"nothing to change: write {kind.noun} update {record_id} FIELD=VALUE")
        client = await session.client()
        secret = Secret()
        if kind.has_secret:
            check = partial(kind.records(client).get, record_id)
            secret = await choose_secret(session, arguments, record_id, ask=False, check=check)
        changes = values | secret.fields
        with secret.handed_over(record_id):
            record = await kind.records(client).update(record_id, **changes)
        _report(session, arguments, f"{kind.one} {record_id} updated", record)

    return update


def _delete(kind: RecordKind) -> Command:
    @command(
        f"{kind.noun} delete",
        "ID",
        words=(1, 1),
        flags=(FORCE,),
        examples=(f"{kind.noun} delete {kind.example.partition(' ')[0]}",),
        ids=kind.noun,
        one=kind.one,
    )
    async def delete(session: Session, arguments: Arguments) -> None:
        """Delete a {one}. Asks first, and is refused while the {one} is in use, unless forced."""
        record_id = arguments.word(0)
        forced = arguments.has(FORCE)
        client = await session.client()
        even = ", even if it is in use" if forced else ""
        await session.confirm(arguments, f"Delete the {kind.one} {record_id}{even}?")
        await kind.records(client).delete(record_id, force=forced)
        _report(session, arguments, f"{kind.one} {record_id} deleted", {"id": record_id})

    return delete


def _pause(kind: RecordKind, *, paused: bool) -> Command:
    verb, what = ("pause", "paused") if paused else ("resume", "resumed")
    effect = (
        "Hold back the jobs of a {one}: new ones are accepted, none is sent to workers until `resume`."
        if paused
        else "Send the jobs of a paused {one} to workers again."
    )

    @command(
        f"{kind.noun} {verb}",
        "ID",
        words=(1, 1),
        examples=(f"{kind.noun} {verb} {kind.example.partition(' ')[0]}",),
        ids=kind.noun,
        effect=effect.format(one=kind.one),
    )
    async def hold(session: Session, arguments: Arguments) -> None:
        """{effect}"""
        record_id = arguments.word(0)
        client = await session.client()
        record = await kind.records(client).update(record_id, paused=paused)
        _report(session, arguments, f"{kind.one} {record_id} {what}", record)

    return hold


async def _check_free(kind: RecordKind, client: AdminClient, record_id: str) -> None:
    """Make sure that there is no record of that id.

    Raises:
        RequestRefused: there is one, or the caller may not know.
    """
    try:
        await kind.records(client).get(record_id)
    except RequestRefused as error:
        if error.status == _NOT_FOUND:
            return
        raise
    raise RequestRefused(f"there is a {kind.one} {record_id} already", status=409, code="already_exists")


def _report(session: Session, arguments: Arguments, sentence: str, record: Record) -> None:
    """A sentence for a person, the record for a script."""
    output = session.output(arguments)
    output.say(sentence)
    if output.as_json:
        output.record(record)


def _nested(values: Mapping[str, object]) -> dict[str, object]:
    """`limits.running` and its like as an object, as the server takes them."""
    nested: dict[str, object] = {}
    for name, value in values.items():
        whole, dot, part = name.partition(".")
        if dot:
            inner = nested.setdefault(whole, {})
            assert isinstance(inner, dict)
            inner[part] = value
        else:
            nested[name] = value
    return nested
