"""`backup` and `restore`: all that administrators keep, in a file."""

from __future__ import annotations

from pathlib import Path

from dts.management.shell.arguments import Arguments, Flag
from dts.management.shell.grammar import command
from dts.management.shell.session import Session
from dts.management.utils import counted

RUNS = Flag("--runs", "also work that is not finished: runs, their jobs, and results so far")


@command("backup", "FILE", words=(1, 1), flags=(RUNS,), examples=("backup dts.backup", "backup monday.backup --runs"))
async def backup(session: Session, arguments: Arguments) -> None:
    """Write all that administrators keep to a file, while the system works.

    Users with their keys as stored, namespaces, functions and their versions, routes, hosts, schedules, alert rules,
    and the operation log. Keys are encrypted with the server's key file, which is not in the backup: keep a copy of it
    at another place.
    """
    path = Path(arguments.word(0))
    rows = await (await session.client()).backup(path, runs=arguments.has(RUNS))
    output = session.output(arguments)
    output.say(f"{path}: {counted(rows, 'row')}; it is of no use without the server's key file")
    if output.as_json:
        output.record({"file": str(path), "rows": rows})


@command("restore", "FILE", words=(1, 1), examples=("restore dts.backup --yes",))
async def restore(session: Session, arguments: Arguments) -> None:
    """Put a backup into the store of this server. Asks first.

    The server must have been started with the key file of the one that the backup is of, on a store in which nothing
    was changed yet; SQLite or MongoDB, whichever the backup is of. What is there and not in the backup is removed. In
    the end the users, and so your own secret, are those of the backup.
    """
    path = Path(arguments.word(0))
    client = await session.client()
    await session.confirm(arguments, f"Replace what {client.server_url} keeps by {path}?")
    done = await client.restore(path)
    output = session.output(arguments)
    what = {"record": "records", "document": "documents", "run": "runs", "block": "blocks"}
    counts = ", ".join(counted(done[name], noun) for noun, name in what.items())
    output.say(
        f"restored {counts}, {done['operations']} entries of the operation log; "
        f"{counted(done['removed'], 'record')} removed"
    )
    if output.as_json:
        output.record(done)


COMMANDS = (backup, restore)
