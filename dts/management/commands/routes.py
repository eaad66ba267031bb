"""`routes …`: the queues that functions' jobs go to, and what is set of them."""

from __future__ import annotations

from dts.management.commands.records import RecordKind, commands_of
from dts.management.shell.fields import Field, Kind
from dts.management.shell.output import Column

ROUTES = RecordKind(
    noun="routes",
    one="route",
    fields=(
        Field("description", Kind.TEXT, "what it is for"),
        Field("paused", Kind.BOOLEAN, "nothing more is sent to its workers"),
        Field("limits.running", Kind.INTEGER, "jobs at work at once, at most", optional=True),
    ),
    columns=(Column("id", "route"), Column("description"), Column("paused"), Column("limits"), Column("modified")),
    filters=(Field("paused", Kind.BOOLEAN, "whether paused"),),
    example="far-east description='hosts in Tokyo'",
    change="far-east limits.running=100",
    selection="paused=yes",
)

COMMANDS = commands_of(ROUTES)
