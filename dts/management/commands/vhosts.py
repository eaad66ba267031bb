"""`vhosts …`: hosts of the fleet that are reachable by ssh."""

from __future__ import annotations

from dts.errors import ClientError, ConfigError, InvalidInput, RequestRefused
from dts.management.commands.records import RecordKind, commands_of
from dts.management.commands.ssh import GROUP, show_ends, shower
from dts.management.shell.arguments import Arguments, Flag
from dts.management.shell.fields import Field, Kind
from dts.management.shell.grammar import command
from dts.management.shell.output import Column, note
from dts.management.shell.session import Session
from dts.model.units import parse_seconds

ACCEPT = Flag("--accept-fingerprint", "the fingerprint that the host's key has, for scripts", "SHA256:…")


async def _with_host_key(session: Session, arguments: Arguments, host_id: str, fields: dict[str, object]) -> None:
    """Add the key that a host shows, once a person or a flag has confirmed its fingerprint.

    A host that is given without a key to log in with is not asked; one that does not answer is added without it.
    """
    if "host_key" in fields or not {"ssh_key", "ssh_pem_cert"} & fields.keys():
        return
    address, port = str(fields.get("address", host_id)), fields.get("port", 22)
    assert isinstance(port, int)
    try:
        shown = await (await session.client()).ssh.host_key(address, port)
    except RequestRefused as error:
        if error.code != "host_unavailable":
            raise
        note(f"{error.message}; {host_id} is added without it. When the host is there: vhosts trust {host_id}")
        return
    await _confirm_key(session, arguments, host_id, shown["fingerprint"])
    fields["host_key"] = shown["host_key"]


async def _confirm_key(session: Session, arguments: Arguments, host_id: str, fingerprint: str) -> None:
    """Make sure that a host's key is its own. `--yes` is no answer to that.

    Raises:
        InvalidInput: another fingerprint was given.
        ClientError: the person says no.
        ConfigError: nobody is there to ask.
    """
    given = arguments.flags.get(ACCEPT.name)
    if given is not None:
        if given != fingerprint:
            raise InvalidInput(f"{host_id} shows a key with the fingerprint {fingerprint}, not {given}: not trusted")
        return
    if not session.prompts.present:
        raise ConfigError(
            f"{host_id} shows a key with the fingerprint {fingerprint}: if that is its own (on the host: ssh-keygen "
            f"-lf /etc/ssh/ssh_host_ed25519_key.pub), give --accept-fingerprint {fingerprint}"
        )
    note(f"{host_id} shows a key with the fingerprint {fingerprint}")
    note("on the host, ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub shows its own")
    if not await session.prompts.confirm("Is it the same?"):
        raise ClientError("nothing was changed")


@command(
    "vhosts trust",
    "HOST [--accept-fingerprint SHA256:…]",
    words=(1, 1),
    flags=(ACCEPT,),
    examples=("vhosts trust worker1",),
    ids="vhosts",
)
async def trust(session: Session, arguments: Arguments) -> None:
    """Fetch the key that a host shows now, and pin it once its fingerprint is confirmed.

    Needed when a host was installed anew: until then its changed key is refused.
    """
    host_id = arguments.word(0)
    client = await session.client()
    host = await client.vhosts.get(host_id)
    shown = await client.ssh.host_key(host["address"] or host_id, host["port"])
    output = session.output(arguments)
    if shown["host_key"] == host["host_key"]:
        output.say(f"the key of {host_id} is the one on record: {shown['fingerprint']}")
    else:
        await _confirm_key(session, arguments, host_id, shown["fingerprint"])
        host = await client.vhosts.update(host_id, host_key=shown["host_key"])
        output.say(f"the key of {host_id} is pinned: {shown['fingerprint']}")
    if output.as_json:
        output.record({"id": host_id, **shown})


VHOSTS = RecordKind(
    noun="vhosts",
    one="vhost",
    fields=(
        Field("address", Kind.TEXT, "host name or IP address; the id unless given"),
        Field("port", Kind.INTEGER, "port of ssh"),
        Field("ssh_user", Kind.TEXT, "who to be there"),
        Field("ssh_key", Kind.FILE, "the private key", optional=True),
        Field(
            "ssh_pem_cert",
            Kind.FILE,
            "the private key in PEM, with a certificate for it if there is one",
            optional=True,
        ),
        Field("ssh_passphrase", Kind.FILE, "the passphrase of the private key", optional=True),
        Field("host_key", Kind.TEXT, "the host's public key, as in known_hosts"),
        Field("functions_dir", Kind.TEXT, "where its worker's functions are"),
        Field("routes", Kind.LIST, "which queues its worker serves"),
        Field("groups", Kind.LIST, "the groups that it is in"),
        Field("description", Kind.TEXT, "what it is"),
    ),
    columns=(
        Column("id", "vhost"),
        Column("address"),
        Column("port", right=True),
        Column("ssh_user"),
        Column("routes"),
        Column("groups"),
        Column("description"),
        Column("modified"),
    ),
    filters=(
        Field("routes", Kind.TEXT, "one of the routes"),
        Field("groups", Kind.TEXT, "one of the groups"),
        Field("address", Kind.TEXT, "the address"),
        Field("ssh_user", Kind.TEXT, "who to be there"),
    ),
    example="worker1 address=10.0.0.11 ssh_key=@~/.ssh/id_ed25519 routes=default",
    change="worker1 routes=default,international",
    selection="routes=default",
    add_flags=(ACCEPT,),
    complete=_with_host_key,
    reads=("has_ssh_key", "has_ssh_pem_cert", "has_ssh_passphrase", "created", "modified", "version"),
)


INIT = (
    GROUP,
    Field("python", Kind.TEXT, "the interpreter there; the newest that is found unless given"),
    Field("index_url", Kind.TEXT, "the index that pip installs from; PyPI unless given"),
    Field("pip_args", Kind.LIST, "further arguments of pip install"),
    Field("packages", Kind.TEXT, "a folder there with the packages that DTS needs, in place of an index"),
    Field("service", Kind.TEXT, "what keeps the worker running", choices=("auto", "systemd", "process")),
)
HEARTBEAT = Flag("--heartbeat-timeout", "how long the first heartbeat may take, such as 90s (default: 2m)", "TIME")


async def _work(session: Session, arguments: Arguments, what: str) -> int:
    output = session.output(arguments)
    options = {name: value for name, value in arguments.values.items() if name != GROUP.name}
    params: dict[str, object] = {"hosts": list(arguments.words), "group": arguments.values.get(GROUP.name, "")}
    if options:
        params["options"] = options
    if (text := arguments.flags.get(HEARTBEAT.name)) is not None:
        params["heartbeat_timeout"] = parse_seconds(text)
    client = await session.client()
    return show_ends(output, await client.ssh.work(what, params, shower(output)))


@command(
    "vhosts init",
    "HOST… [group=GROUP] [FIELD=VALUE …]",
    words=(0, 1000),
    fields=INIT,
    flags=(HEARTBEAT,),
    examples=("vhosts init worker1 worker2", "vhosts init group=gpu index_url=https://pypi.example/simple"),
    ids="vhosts",
)
async def init(session: Session, arguments: Arguments) -> int:
    """Bring hosts into service over ssh: an environment with the server's DTS, settings, key, service, worker.

    Reports each step and waits for the first heartbeat. What is right already is left as it is, and how a host was
    installed the last time holds until something else is said. Exit status 1 when it failed on one host.
    """
    return await _work(session, arguments, "init")


@command(
    "vhosts upgrade",
    "HOST… [group=GROUP] [FIELD=VALUE …]",
    words=(0, 1000),
    fields=INIT,
    flags=(HEARTBEAT,),
    examples=("vhosts upgrade group=gpu",),
    ids="vhosts",
)
async def upgrade(session: Session, arguments: Arguments) -> int:
    """Bring hosts to the server's DTS, one after the other; stops at the first that does not come back."""
    return await _work(session, arguments, "upgrade")


@command(
    "vhosts status",
    "HOST… [group=GROUP]",
    words=(0, 1000),
    fields=(GROUP,),
    examples=("vhosts status group=gpu",),
    ids="vhosts",
)
async def status(session: Session, arguments: Arguments) -> int:
    """Look at hosts over ssh: what is installed, whether the worker runs, and what its last heartbeat says."""
    return await _work(session, arguments, "status")


@command(
    "vhosts drain",
    "HOST… [group=GROUP]",
    words=(0, 1000),
    fields=(GROUP,),
    examples=("vhosts drain worker1",),
    ids="vhosts",
)
async def drain(session: Session, arguments: Arguments) -> int:
    """Have the workers on hosts finish what they are at, and end. `vhosts init` starts them again."""
    return await _work(session, arguments, "drain")


@command(
    "vhosts remove",
    "HOST… [group=GROUP]",
    words=(0, 1000),
    fields=(GROUP,),
    examples=("vhosts remove worker1 --yes",),
    ids="vhosts",
)
async def remove(session: Session, arguments: Arguments) -> int:
    """Drain workers, and take DTS off their hosts. Asks first. The records stay: `vhosts delete` deletes one."""
    what = ", ".join([*arguments.words, *(f"the group {group}" for group in [arguments.values.get("group")] if group)])
    await session.confirm(arguments, f"Take DTS off {what}?")
    return await _work(session, arguments, "remove")


COMMANDS = (*commands_of(VHOSTS), trust, init, upgrade, status, drain, remove)
