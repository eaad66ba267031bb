"""`login`, `whoami`, `rotate`, `help`, `exit`: who you are, and the shell itself."""

from __future__ import annotations

import json

from dts.auth import Credentials
from dts.client import load_credentials
from dts.client.credentials import CREDENTIALS_FILE
from dts.errors import ConfigError
from dts.management.api.resources import Record
from dts.management.commands.users import USERS
from dts.management.shell.arguments import SECRET_FILE, Arguments, Flag
from dts.management.shell.fields import Field, Kind, find_field
from dts.management.shell.grammar import command
from dts.management.shell.output import as_text, describe_login, note
from dts.management.shell.secrets import choose_secret
from dts.management.shell.session import Session
from dts.management.utils import read_secret_file, write_private
from dts.model import check_user_id

SAVE = Flag("--save", f"keep name, secret and URL in {CREDENTIALS_FILE} (mode 0600)")
LOGIN_SECRET = Flag("--secret-file", "the file with the secret", "FILE")


@command(
    "login",
    "[NAME]",
    words=(0, 1),
    flags=(LOGIN_SECRET, SAVE),
    examples=("login alice", "login alice --secret-file alice.secret --save"),
    ids="users",
)
async def login(session: Session, arguments: Arguments) -> None:
    """Sign in, as somebody else too, and make sure that the server accepts it. The secret is asked for.

    Without a NAME the credentials that the shell was started with are checked.
    """
    credentials = await _credentials(session, arguments)
    client = session.new_client(credentials)
    try:
        user = await client.login()
    finally:
        client.close()
    session.use(credentials)
    if arguments.has(SAVE):
        if CREDENTIALS_FILE.expanduser().exists():
            await session.confirm(arguments, f"Replace {CREDENTIALS_FILE}?")
        _save(session, credentials)
    output = session.output(arguments)
    output.say(describe_login(user, client.server_url))
    if output.as_json:
        output.record(user)


async def _credentials(session: Session, arguments: Arguments) -> Credentials:
    name = arguments.word(0)
    path = arguments.flags.get(LOGIN_SECRET.name)
    if path is not None:
        name = name or session.options.username or await session.prompts.name("user name: ")
        return Credentials(check_user_id(name), read_secret_file(path))
    if not name:
        return await session.credentials()
    if not session.prompts.present:
        return load_credentials(name, None)
    return Credentials(check_user_id(name), await session.prompts.secret(name))


def _save(session: Session, credentials: Credentials) -> None:
    path = CREDENTIALS_FILE.expanduser()
    new = path.with_name(f".{path.name}.new")
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        new.unlink(missing_ok=True)
    except OSError as error:
        raise ConfigError(f"cannot write {path}: {error.strerror or error}") from error
    table = {"username": credentials.user_id, "secret": credentials.secret, "url": session.options.url}
    write_private(new, "".join(f"{name} = {json.dumps(value, ensure_ascii=False)}\n" for name, value in table.items()))
    new.replace(path)
    note(f"credentials kept in {path}")


@command("whoami", "[FIELD …]", words=(0, 20), examples=("whoami", "whoami roles"))
async def whoami(session: Session, arguments: Arguments) -> None:
    """Show your own user record, or some fields of it."""
    fields = [find_field(name, USERS.readable).name for name in arguments.words]
    session.output(arguments).record(await (await session.client()).login(), fields=fields)


@command(
    "rotate",
    "[secret=generate] [grace=SECONDS]",
    fields=(
        Field("secret", Kind.SECRET, "the new secret; asked for unless given"),
        Field("grace", Kind.SECONDS, "how long the secret before stays valid"),
    ),
    flags=(SECRET_FILE,),
    examples=("rotate", "rotate secret=generate --secret-file new.secret grace=3600"),
)
async def rotate(session: Session, arguments: Arguments) -> None:
    """Give yourself a new secret. The one before stays valid for a grace time, so that nothing stops."""
    client = await session.client()
    secret = await choose_secret(session, arguments, client.user_id, ask=True, check=client.login)
    grace = arguments.values.get("grace")
    with secret.handed_over(client.user_id):
        user = await client.change_secret(secret.text, grace=grace if isinstance(grace, (int, float)) else None)
    session.use(Credentials(client.user_id, secret.text))
    output = session.output(arguments)
    output.say(f"{client.user_id} has a new secret; the one before is valid until {_until(user)}")
    if output.as_json:
        output.record(user)


def _until(user: Record) -> str:
    expires = user.get("secret_expires")
    return as_text("secret_expires", expires) if expires else "now"


@command("help", "[COMMAND]", words=(0, 3), examples=("help", "help users", "help users add"))
async def show_help(session: Session, arguments: Arguments) -> None:
    """Show all commands, or how one is written, with an example."""
    session.output(arguments).text(session.help(arguments.words))


@command("exit", examples=("exit",))
async def leave(session: Session, arguments: Arguments) -> None:
    """Leave the shell; so does Ctrl-D."""
    session.leaving = True


COMMANDS = (login, whoami, rotate, show_help, leave)
