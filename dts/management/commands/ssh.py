"""`ssh …`: a command on hosts of the fleet."""

from __future__ import annotations

from dts.errors import InvalidInput
from dts.management.api.resources import Record
from dts.management.shell.arguments import Arguments, Flag
from dts.management.shell.fields import Field, Kind
from dts.management.shell.grammar import command
from dts.management.shell.output import Column, Output
from dts.management.shell.session import Session
from dts.model.units import parse_seconds

GROUP = Field("group", Kind.TEXT, "the hosts of a group")
PARALLEL = Flag("--parallel", "hosts at a time (default: 16)", "N")
TIMEOUT = Flag("--timeout", "how long it may take on a host, such as 90s or 5m (default: 60s)", "TIME")

ENDS = (
    Column("host", id=True),
    Column("state"),
    Column("status", right=True),
    Column("seconds", right=True),
    Column("text", "why"),
)


@command(
    "ssh",
    "HOST… [group=GROUP] -- COMMAND [ARGUMENT…]",
    words=(0, 1000),
    fields=(GROUP,),
    flags=(TIMEOUT, PARALLEL),
    examples=("ssh worker1 worker2 -- uptime -p", "ssh group=gpu --timeout 5m -- nvidia-smi --query-gpu=name"),
    ids="vhosts",
    rest=True,
)
async def ssh(session: Session, arguments: Arguments) -> int:
    """Run a command on hosts over ssh, and show what it writes by host. Exit status 1 when it failed on one.

    What follows `--` is a list of arguments: no shell on the host takes it apart. It goes into the operation log.
    """
    if not arguments.rest:
        raise InvalidInput("what is to run? Write ssh HOST… -- COMMAND ARGUMENT…")
    output = session.output(arguments)
    options: dict[str, object] = {}
    if (text := arguments.flags.get(TIMEOUT.name)) is not None:
        options["timeout"] = parse_seconds(text)
    if (number := arguments.number(PARALLEL)) is not None:
        options["parallel"] = number
    client = await session.client()
    ends = await client.ssh.run(
        arguments.rest,
        hosts=arguments.words,
        group=str(arguments.values.get("group", "")),
        on_event=shower(output),
        **options,
    )
    return show_ends(output, ends)


class shower:  # noqa: N801  used like a function
    """Shows events as they come: whole lines with the host before them, or the events themselves to a script."""

    def __init__(self, output: Output) -> None:
        self._output = output
        self._rest: dict[tuple[str, str], str] = {}

    def __call__(self, event: Record) -> None:
        if self._output.as_json:
            self._output.record(event)
        elif event["event"] == "output":
            self._lines(event)
        elif event["event"] == "step":
            what = " ".join(filter(None, (event.get("state", ""), event.get("text", ""))))
            self._output.say(f"{event['host']}: {event['step']}{': ' if what else ''}{what}")
        elif event["event"] == "end":
            for key in [key for key in self._rest if key[0] == event["host"]]:
                self._output.say(f"{key[0]} | {self._rest.pop(key)}")

    def _lines(self, event: Record) -> None:
        key = event["host"], event["stream"]
        *lines, rest = (self._rest.pop(key, "") + event["text"]).split("\n")
        for line in lines:
            self._output.say(f"{event['host']} | {line}")
        if rest:
            self._rest[key] = rest


def show_ends(output: Output, ends: list[Record]) -> int:
    """A table of how it ended on each host; returns the exit status."""
    if not output.as_json:
        output.table(sorted(ends, key=lambda end: str(end["host"])), ENDS)
    return 1 if any(end.get("state") == "failed" for end in ends) else 0


COMMANDS = (ssh,)
