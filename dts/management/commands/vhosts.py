"""`vhosts …`: hosts of the fleet that are reachable by ssh."""

from __future__ import annotations

from dts.errors import ClientError, ConfigError, InvalidInput, RequestRefused
from dts.management.commands.records import RecordKind, commands_of
from dts.management.shell.arguments import Arguments, Flag
from dts.management.shell.fields import Field, Kind
from dts.management.shell.grammar import command
from dts.management.shell.output import Column, note
from dts.management.shell.session import Session

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


@command("vhosts init", "ID", words=(1, 1), examples=("vhosts init worker1",), ids="vhosts")
async def init(session: Session, arguments: Arguments) -> None:
    """Not there yet: prepare a host over ssh to run a worker. Until then install dts there and start its worker."""
    raise ClientError(
        "vhosts init is not there yet: install dts on the host and start python -m dts.worker -c etc/worker.toml"
    )


COMMANDS = (*commands_of(VHOSTS), trust, init)
