"""`functions …`: the code that jobs run, by its registered name."""

from __future__ import annotations

from dts.management.commands import deployment
from dts.management.commands.records import LIMIT_FIELDS, RecordKind, commands_of
from dts.management.shell.fields import Field, Kind
from dts.management.shell.output import Column
from dts.model.attempts import ATTEMPT_OPTIONS, AttemptOption
from dts.model.ranges import BYTES, SECONDS

_KINDS: dict[type, Kind] = {float: Kind.NUMBER, int: Kind.INTEGER, str: Kind.LIST}
_UNITS = {SECONDS: Kind.SECONDS, BYTES: Kind.BYTES}


def _kind_of(option: AttemptOption) -> Kind:
    return _UNITS[option.values] if option.values in _UNITS else _KINDS[option.kind]


FUNCTIONS = RecordKind(
    noun="functions",
    one="function",
    fields=(
        Field("description", Kind.TEXT, "what it does"),
        Field("route", Kind.TEXT, "which queue its jobs go to"),
        Field("enabled", Kind.BOOLEAN, "new jobs are refused when it is not"),
        Field("deployed", Kind.TEXT, "the version that was deployed last, by its whole hash; see functions rollback"),
        Field("pinned", Kind.TEXT, "the version that runs whatever is deployed; see functions pin"),
        Field("paused", Kind.BOOLEAN, "its jobs are accepted and wait"),
        Field("priority", Kind.INTEGER, "of jobs that ask for none: 0 to 9, and 9 goes first"),
        Field("memo", Kind.SECONDS, "how long a result is given to jobs with the same arguments", optional=True),
        Field("unique", Kind.SECONDS, "how long a job with the same arguments is the same job", optional=True),
        *(Field(option.name, _kind_of(option), option.meaning, optional=True) for option in ATTEMPT_OPTIONS),
        *LIMIT_FIELDS,
        Field("limits.starts_per_second", Kind.NUMBER, "jobs that begin in a second, at most", optional=True),
        Field("limits.key", Kind.TEXT, "what the next two count by, such as kwargs.customer", optional=True),
        Field("limits.key_running", Kind.INTEGER, "jobs at work at once with the same key, at most", optional=True),
        Field("limits.key_starts_per_second", Kind.NUMBER, "that begin in a second, by key", optional=True),
    ),
    columns=(
        Column("id", "function"),
        Column("description"),
        Column("route"),
        Column("enabled"),
        Column("mean_duration", "mean", right=True),
        Column("limits"),
        Column("modified"),
    ),
    filters=(
        Field("namespace", Kind.TEXT, "the namespace", ids="namespaces"),
        Field("route", Kind.TEXT, "the route"),
        Field("enabled", Kind.BOOLEAN, "whether enabled"),
        Field("description", Kind.TEXT, "the description"),
    ),
    example="text/upper description='upper case'",
    change="text/upper timeout=60 max_attempts=3",
    selection="namespace=text",
    reads=("namespace", "mean_duration", "created", "modified", "version"),
)


COMMANDS = (*commands_of(FUNCTIONS), *deployment.COMMANDS)
