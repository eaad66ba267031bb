"""`users …`: who may sign requests, and what they may do."""

from __future__ import annotations

from dts.management.commands.records import LIMIT_FIELDS, SHARE_FIELDS, RecordKind, commands_of
from dts.management.shell.fields import Field, Kind
from dts.management.shell.output import Column

ROLES = ("administrator", "operator", "developer", "user")

USERS = RecordKind(
    noun="users",
    one="user",
    fields=(
        Field("secret", Kind.SECRET, "the new secret; asked for when it is needed and not given"),
        Field("grace", Kind.SECONDS, "how long the secret before stays valid", initial=False),
        Field("roles", Kind.LIST, "what the user may do", choices=ROLES),
        Field("namespaces", Kind.LIST, "whose functions the user may run; * is all of them", ids="namespaces"),
        Field("email", Kind.TEXT, "where mail goes"),
        Field("disabled", Kind.BOOLEAN, "nothing that the user signs is accepted"),
        *SHARE_FIELDS,
        *LIMIT_FIELDS,
    ),
    columns=(
        Column("id", "user"),
        Column("roles"),
        Column("namespaces"),
        Column("email"),
        Column("disabled"),
        Column("limits"),
        Column("modified"),
    ),
    filters=(
        Field("roles", Kind.TEXT, "one of the roles", choices=ROLES),
        Field("namespaces", Kind.TEXT, "one of the namespaces", ids="namespaces"),
        Field("email", Kind.TEXT, "the address"),
        Field("disabled", Kind.BOOLEAN, "whether disabled"),
    ),
    example="alice roles=user,developer namespaces=text email=alice@example.org",
    change="alice roles=user limits.unfinished=100000",
    selection="roles=administrator",
    reads=("secret_expires", "created", "modified", "version"),
    has_secret=True,
)

COMMANDS = commands_of(USERS)
