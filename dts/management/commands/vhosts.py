"""`vhosts …`: hosts of the fleet that are reachable by ssh."""

from __future__ import annotations

from dts.errors import ClientError
from dts.management.commands.records import RecordKind, commands_of
from dts.management.shell.arguments import Arguments
from dts.management.shell.fields import Field, Kind
from dts.management.shell.grammar import command
from dts.management.shell.output import Column
from dts.management.shell.session import Session

VHOSTS = RecordKind(
    noun="vhosts",
    one="vhost",
    fields=(
        Field("address", Kind.TEXT, "host name or IP address; the id unless given"),
        Field("port", Kind.INTEGER, "port of ssh"),
        Field("ssh_user", Kind.TEXT, "who to be there"),
        Field("ssh_key", Kind.FILE, "the private key", optional=True),
        Field("ssh_pem_cert", Kind.FILE, "the certificate", optional=True),
        Field("host_key", Kind.TEXT, "the host's public key, as in known_hosts"),
        Field("functions_dir", Kind.TEXT, "where its worker's functions are"),
        Field("routes", Kind.LIST, "which queues its worker serves"),
        Field("description", Kind.TEXT, "what it is"),
    ),
    columns=(
        Column("id", "vhost"),
        Column("address"),
        Column("port", right=True),
        Column("ssh_user"),
        Column("routes"),
        Column("description"),
        Column("modified"),
    ),
    filters=(
        Field("routes", Kind.TEXT, "one of the routes"),
        Field("address", Kind.TEXT, "the address"),
        Field("ssh_user", Kind.TEXT, "who to be there"),
    ),
    example="worker1 address=10.0.0.11 ssh_key=@~/.ssh/id_ed25519 routes=default",
    change="worker1 routes=default,international",
    selection="routes=default",
    reads=("has_ssh_key", "has_ssh_pem_cert", "created", "modified", "version"),
)


@command("vhosts init", "ID", words=(1, 1), examples=("vhosts init worker1",), ids="vhosts")
async def init(session: Session, arguments: Arguments) -> None:
    """Not there yet: prepare a host over ssh to run a worker. Until then install dts there and start its worker."""
    raise ClientError(
        "vhosts init is not there yet: install dts on the host and start python -m dts.worker -c etc/worker.toml"
    )


COMMANDS = (*commands_of(VHOSTS), init)
