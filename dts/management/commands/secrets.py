"""`secrets …`: what functions of a namespace need and nobody else may read."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from dts.errors import ConfigError, InvalidInput, RequestRefused
from dts.management.shell.arguments import LIMIT, Arguments, Flag
from dts.management.shell.fields import Field, Kind
from dts.management.shell.grammar import command
from dts.management.shell.output import Column, limit_of
from dts.management.shell.session import Session

FILE = Flag("--file", "read it from FILE, or from standard input for -; a newline at its end is left out", "FILE")

_COLUMNS = (Column("id", "secret"), Column("description"), Column("modified"))
_NOT_FOUND = 404


@command(
    "secrets set",
    "NAMESPACE NAME [--file FILE] [description=TEXT]",
    words=(2, 2),
    fields=(Field("description", Kind.TEXT, "what it is for"),),
    flags=(FILE,),
    examples=("secrets set crm API_TOKEN", "secrets set crm API_TOKEN --file token.txt"),
    ids="namespaces",
)
async def set_secret(session: Session, arguments: Arguments) -> None:
    """Set a secret of a namespace. Asks for it, unless it is read from a file. Nobody can read it back.

    Functions of the namespace get it as `dts.worker.context.secrets.NAME`, from the next message on.
    """
    secret_id = f"{arguments.word(0)}/{arguments.word(1)}"
    path = arguments.flags.get(FILE.name)
    secret = await session.prompts.new_secret(secret_id) if path is None else _read(path)
    secrets = (await session.client()).secrets
    values: dict[str, Any] = {"secret": secret, **arguments.values}
    try:
        await secrets.get(secret_id)
    except RequestRefused as error:
        if error.status != _NOT_FOUND:
            raise
        record = await secrets.add(secret_id, **values)
    else:
        record = await secrets.update(secret_id, **values)
    output = session.output(arguments)
    output.say(f"secret {secret_id} set")
    if output.as_json:
        output.record(record)


@command(
    "secrets list",
    "[namespace=NAMESPACE]",
    fields=(Field("namespace", Kind.TEXT, "the namespace", ids="namespaces"),),
    flags=(LIMIT,),
    examples=("secrets list", "secrets list namespace=crm"),
)
async def list_secrets(session: Session, arguments: Arguments) -> None:
    """List the names of secrets, and when they were set; not what they are."""
    output = session.output(arguments)
    limit = limit_of(arguments.number(LIMIT), as_json=output.as_json)
    pages = (await session.client()).secrets.pages(limit=limit, **arguments.values)
    await output.rows(pages, _COLUMNS, limit=limit, what="secrets")


@command(
    "secrets remove",
    "NAMESPACE NAME",
    words=(2, 2),
    examples=("secrets remove crm API_TOKEN --yes",),
    ids="namespaces",
)
async def remove_secret(session: Session, arguments: Arguments) -> None:
    """Remove a secret of a namespace: its functions do not get it any more. Asks first."""
    secret_id = f"{arguments.word(0)}/{arguments.word(1)}"
    secrets = (await session.client()).secrets
    await session.confirm(arguments, f"Remove the secret {secret_id}?")
    await secrets.delete(secret_id)
    output = session.output(arguments)
    output.say(f"secret {secret_id} removed")
    if output.as_json:
        output.record({"id": secret_id})


def _read(path: str) -> str:
    """The secret in a file.

    Raises:
        ConfigError: the file cannot be read.
        InvalidInput: there is nothing in it.
    """
    try:
        text = sys.stdin.read() if path == "-" else Path(path).expanduser().read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not text in UTF-8") from error
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror or error}") from error
    secret = text.removesuffix("\n").removesuffix("\r")
    if not secret:
        raise InvalidInput(f"{path} is empty: it should hold the secret")
    return secret


COMMANDS = (set_secret, list_secrets, remove_secret)
