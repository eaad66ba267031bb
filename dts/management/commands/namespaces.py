"""`namespaces …`: what functions belong to, and users are members of."""

from __future__ import annotations

from dts.management.commands.records import LIMIT_FIELDS, SHARE_FIELDS, RecordKind, commands_of
from dts.management.shell.fields import Field, Kind
from dts.management.shell.output import Column

NAMESPACES = RecordKind(
    noun="namespaces",
    one="namespace",
    fields=(Field("description", Kind.TEXT, "what it is for"), *SHARE_FIELDS, *LIMIT_FIELDS),
    columns=(Column("id", "namespace"), Column("description"), Column("limits"), Column("modified")),
    filters=(Field("description", Kind.TEXT, "the description"),),
    example="crm description='calls to the CRM'",
    change="crm limits.running=20",
    selection="description='calls to the CRM'",
)

COMMANDS = commands_of(NAMESPACES)
