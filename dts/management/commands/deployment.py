"""`functions deploy` and what goes with it: versions of functions, from a developer's folder to the workers."""

from __future__ import annotations

import asyncio
import difflib
from collections.abc import Iterator
from pathlib import Path

from dts.errors import ClientError, InvalidInput, RequestRefused
from dts.management.api.resources import Record
from dts.management.client import AdminClient
from dts.management.deployment.folder import read_source
from dts.management.deployment.self_test import try_out
from dts.management.shell.arguments import Arguments, Flag
from dts.management.shell.grammar import command
from dts.management.shell.output import Column, Output, note, patience
from dts.management.shell.session import Session
from dts.management.utils import printable
from dts.model import parse_function_name
from dts.wire.archive import SHORT, Source, pack, unpack

MESSAGE = Flag("--message", "why, for the list of versions", "TEXT", short="-m")
NO_TEST = Flag("--no-test", "do not import it and run its self_test() on this machine first")
TO = Flag("--to", "push it to hosts over ssh: group=NAME, host=NAME,… or all", "HOSTS")
CANARY = Flag("--canary", "push it to this host first, and to the others when it has passed there", "HOST")
OFF = Flag("--off", "run what was deployed last again")

_NOT_FOUND = 404

_POLL = 0.3  # seconds between two questions how far the hosts are

_HOST_COLUMNS = (
    Column("host", id=True),
    Column("short", "version", id=True),
    Column("state"),
    Column("attempts", right=True),
    Column("error", "why"),
)

_COLUMNS = (
    Column("short", "version", id=True),
    Column("state", ""),
    Column("created", "deployed"),
    Column("user", "by"),
    Column("files", show=lambda files: str(len(files)), right=True),
    Column("size", right=True),
    Column("message"),
)


@command(
    "functions deploy",
    "ID PATH",
    words=(2, 2),
    flags=(MESSAGE, TO, CANARY, NO_TEST),
    examples=(
        "functions deploy text/stats ./stats -m 'counts words, too'",
        "functions deploy text/upper upper.py --to group=gpu --canary worker1",
    ),
    ids="functions",
)
async def deploy(session: Session, arguments: Arguments) -> None:
    """Deploy a function: a module, or a folder with helpers and a requirements.txt. New jobs run it from then on.

    It is imported on this machine first, and its self_test() is run if it has one. Runs that are under way keep their
    version. The function, and its namespace, are registered if they are not yet. Workers fetch it from the server where
    they may; with --to it is pushed to hosts, which try it out, too, and new jobs run it when it is on all that can be
    reached. Those that are down get it when they are back.
    """
    name = str(parse_function_name(arguments.word(0)))
    source = read_source(_path(arguments.word(1)), name)
    if not arguments.has(NO_TEST):
        with patience(f"trying {name} out on this machine"):
            note(await try_out(source, name))
    client = await session.client()
    await _register(client, name)
    where = _where(arguments)
    with patience("sending it to the server"):
        version = await client.versions.deploy(
            name, pack(source), message=arguments.flags.get(MESSAGE.name, ""), activate=not where
        )
    output = session.output(arguments)
    if where:
        await _roll_out(client, name, version, where, output)
        version = await client.versions.get(name, version["version"])
    output.say(f"{name} is deployed: version {version['short']}, {_files(version)}")
    if not version["active"]:
        note(f"new jobs go on with the pinned version: functions pin {name} --off has them run this one")
    if output.as_json:
        output.record(version)


def _where(arguments: Arguments) -> dict[str, object]:
    """The hosts that a version is to be pushed to; nothing for none.

    Raises:
        InvalidInput: it is said in another way than can be understood.
    """
    text, canary = arguments.flags.get(TO.name, ""), arguments.flags.get(CANARY.name, "")
    kind, equals, names = text.partition("=")
    if text == "all":
        where: dict[str, object] = {"all": True}
    elif equals and names and kind in ("group", "host"):
        where = {"group": names} if kind == "group" else {"hosts": names.split(",")}
    elif text or canary:
        raise InvalidInput("write --to group=NAME, --to host=NAME,NAME or --to all; --canary HOST goes with it")
    else:
        return {}
    return where | ({"canary": canary} if canary else {})


async def _roll_out(client: AdminClient, name: str, version: Record, where: dict[str, object], output: Output) -> None:
    """Push a version to hosts, and show how that goes until it is active.

    Raises:
        ClientError: a host has refused it; new jobs go on with what was active before.
    """
    rollout = await client.versions.roll_out(name, version["version"], **where)
    told: dict[str, str] = {}
    while True:
        for row in rollout["hosts"]:
            if told.get(row["host"]) != row["state"] and row["state"] not in ("due", "held"):
                note(f"{row['host']}: {row['state']}{': ' if row['error'] else ''}{row['error']}")
            told[row["host"]] = row["state"]
        if rollout["state"] != "running" or rollout["version"] != version["version"]:
            break
        await asyncio.sleep(_POLL)
        rollout = await client.versions.rollout(name)
    output.table([row | {"short": row["version"][:SHORT]} for row in rollout["hosts"]], _HOST_COLUMNS)
    if rollout["state"] != "active":
        raise ClientError(f"version {version['short']} of {name} is not active: new jobs run what they ran before")


@command("functions versions", "ID", words=(1, 1), examples=("functions versions text/stats",), ids="functions")
async def versions(session: Session, arguments: Arguments) -> None:
    """List the versions of a function that are kept, the one that was deployed last first."""
    client = await session.client()
    rows = await client.versions.list(arguments.word(0))
    output = session.output(arguments)
    if not rows:
        output.say(f"{arguments.word(0)} has no versions: workers run what is in their functions folders")
    else:
        output.table([row | {"state": _state(row)} for row in rows], _COLUMNS)


@command(
    "functions diff",
    "ID [VERSION [VERSION]]",
    words=(1, 3),
    examples=("functions diff text/stats", "functions diff text/stats 3f2a91 77c0de"),
    ids="functions",
)
async def diff(session: Session, arguments: Arguments) -> None:
    """Show what differs between two versions of a function.

    With one VERSION, between it and the active one; with none, between the active one and the one deployed before it.
    """
    client, name = await session.client(), arguments.word(0)
    rows = await client.versions.list(name)
    if len(arguments.words) == 3:
        older, newer = arguments.words[1:]
    else:
        newer = _active(name, rows)["version"]
        older = arguments.word(1) or _before(name, rows)["version"]
    texts = [unpack(await client.versions.source(name, version)) for version in (older, newer)]
    lines = list(_differences(*texts))
    session.output(arguments).text("".join(lines) if lines else "no difference\n")


@command(
    "functions rollback",
    "ID [VERSION]",
    words=(1, 2),
    examples=("functions rollback text/stats", "functions rollback text/stats 3f2a91"),
    ids="functions",
)
async def rollback(session: Session, arguments: Arguments) -> None:
    """Have new jobs run an earlier version: the one given, or the one that was deployed before the present one."""
    client, name = await session.client(), arguments.word(0)
    if arguments.word(1):
        version = await client.versions.get(name, arguments.word(1))
    else:
        version = _before(name, await client.versions.list(name))
    await client.functions.update(name, deployed=version["version"])
    session.output(arguments).say(f"new jobs of {name} run version {version['short']}, {_why(version)}")


@command("functions undeploy", "ID", words=(1, 1), examples=("functions undeploy text/stats",), ids="functions")
async def undeploy(session: Session, arguments: Arguments) -> None:
    """Have new jobs run what workers have in their functions folders. Versions stay, for runs that are under way."""
    client, name = await session.client(), arguments.word(0)
    await session.confirm(arguments, f"Have no deployed version of {name} run any more?")
    await client.functions.update(name, deployed="", pinned="")
    session.output(arguments).say(f"no version of {name} is deployed any more")


@command(
    "functions pin",
    "ID [VERSION]",
    words=(1, 2),
    flags=(OFF,),
    examples=("functions pin text/stats 3f2a91", "functions pin text/stats --off"),
    ids="functions",
)
async def pin(session: Session, arguments: Arguments) -> None:
    """Have new jobs run one version, the given or the active one, whatever is deployed; with --off no longer."""
    client, name = await session.client(), arguments.word(0)
    output = session.output(arguments)
    if arguments.has(OFF):
        if arguments.word(1):
            raise InvalidInput("functions pin takes a VERSION or --off, not both")
        await client.functions.update(name, pinned="")
        output.say(f"new jobs of {name} run what was deployed last")
        return
    text = arguments.word(1)
    version = await client.versions.get(name, text) if text else _active(name, await client.versions.list(name))
    await client.functions.update(name, pinned=version["version"])
    output.say(f"new jobs of {name} run version {version['short']}, whatever is deployed")


def _path(text: str) -> Path:
    return Path(text).expanduser()


async def _register(client: AdminClient, name: str) -> None:
    """Register a function, and its namespace, if they are not there yet."""
    namespace = parse_function_name(name).namespace
    for records, record_id in ((client.namespaces, namespace), (client.functions, name)):
        try:
            await records.get(record_id)
        except RequestRefused as error:
            if error.status != _NOT_FOUND:
                raise
            await records.add(record_id)
            note(f"{record_id} is registered now")


def _active(name: str, rows: list[Record]) -> Record:
    active = next((row for row in rows if row["active"]), None)
    if active is None:
        raise ClientError(f"no version of {name} is active")
    return active


def _before(name: str, rows: list[Record]) -> Record:
    """The version that was deployed before the active one."""
    at = rows.index(_active(name, rows))
    if at + 1 == len(rows):
        raise ClientError(f"no version of {name} was deployed before the active one")
    return rows[at + 1]


def _state(row: Record) -> str:
    states = [word for word in ("deployed", "pinned") if row[word]]
    return "active" if row["active"] and states != ["pinned"] else ", ".join(states)


def _files(version: Record) -> str:
    count = len(version["files"])
    return f"{count} file{'s' * (count != 1)}"


def _why(version: Record) -> str:
    return printable(version["message"]) or f"deployed by {version['user']}"


def _differences(older: Source, newer: Source) -> Iterator[str]:
    """A unified diff of two sources; of files that are no text, that they differ."""
    for name in sorted({*older, *newer}):
        before, after = older.get(name), newer.get(name)
        if before == after:
            continue
        lines = [_lines(file.data if file is not None else b"") for file in (before, after)]
        if None in lines:
            yield f"{name}: differs, and is no text\n"
            continue
        for line in difflib.unified_diff(lines[0] or [], lines[1] or [], f"a/{name}", f"b/{name}"):
            yield printable(line.rstrip("\n")) + "\n"


def _lines(data: bytes) -> list[str] | None:
    try:
        return data.decode().splitlines(keepends=True)
    except UnicodeDecodeError:
        return None


@command("functions hosts", "ID", words=(1, 1), examples=("functions hosts text/stats",), ids="functions")
async def hosts(session: Session, arguments: Arguments) -> None:
    """Show which version is on which host, and why it is not: the latest that was pushed to them."""
    client = await session.client()
    rollout = await client.versions.rollout(arguments.word(0))
    rows = [row | {"short": row["version"][:SHORT]} for row in rollout["hosts"]]
    session.output(arguments).table(rows, _HOST_COLUMNS)


COMMANDS = (deploy, versions, hosts, diff, rollback, undeploy, pin)
