"""What an AMQP URL says: `amqp://user:password@host:5672/vhost?heartbeat=10&delivery_limit=20`.

`amqps://…?cacertfile=/etc/dts/ca.pem` trusts the authorities in a file, besides none; `certfile` and `keyfile` are this
side's own certificate, as RabbitMQ's URIs have them.
"""

from __future__ import annotations

import re
import ssl
from dataclasses import dataclass
from typing import NamedTuple
from urllib.parse import parse_qsl, unquote, urlsplit

from dts.broker.abc import DEFAULT_DELIVERY_LIMIT
from dts.errors import ConfigError

DEFAULT_HEARTBEAT = 10
"""Seconds. A peer that is silent for twice as long is taken for dead."""

_NUMBERS = ("heartbeat", "delivery_limit")
_FILES = ("cacertfile", "certfile", "keyfile")

_NODE = re.compile(r"(\[(?P<literal>[0-9a-fA-F:.%]+)\]|(?P<host>[^\[\]:,\s]*))(:(?P<port>\d{1,5}))?")


class Node(NamedTuple):
    """One RabbitMQ of a cluster."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class AmqpUrl:
    """Where to connect, as whom, and the options of a broker. The nodes are those of one cluster."""

    nodes: tuple[Node, ...]
    tls: bool
    user: str
    password: str
    vhost: str
    heartbeat: int = DEFAULT_HEARTBEAT
    delivery_limit: int = DEFAULT_DELIVERY_LIMIT
    cacertfile: str = ""
    certfile: str = ""
    keyfile: str = ""

    def __str__(self) -> str:
        """The address without the password, for logs."""
        return self.at(*self.nodes)

    def tls_context(self) -> ssl.SSLContext | None:
        """What the connection is encrypted with; None for none.

        Raises:
            ConfigError: a file that the URL names cannot be used.
        """
        if not self.tls:
            return None
        try:
            context = ssl.create_default_context(cafile=self.cacertfile or None)
            if self.certfile:
                context.load_cert_chain(self.certfile, self.keyfile or None)
        except OSError as error:  # ssl.SSLError is one
            files = ", ".join(each for each in (self.cacertfile, self.certfile, self.keyfile) if each)
            raise ConfigError(f"broker URL: {files} cannot be used: {error}") from error
        return context

    def at(self, *nodes: Node) -> str:
        """The address of some of the nodes, without the password."""
        vhost = "" if self.vhost == "/" else self.vhost
        return f"{'amqps' if self.tls else 'amqp'}://{self.user}@{','.join(map(str, nodes))}/{vhost}"


def parse_amqp_url(url: str) -> AmqpUrl:
    """Read an AMQP URL. User, password and vhost are percent-decoded; no path, or `/`, is the vhost `/`.

    The nodes of a cluster are separated by commas: `amqp://user:password@h1:5672,h2:5672,h3:5672/vhost`.

    Raises:
        ConfigError: it is not one, or has an unknown option.
    """
    try:
        parts = urlsplit(url)
        given = dict(parse_qsl(parts.query, strict_parsing=bool(parts.query)))
        files = {key: given.pop(key) for key in _FILES if key in given}
        unknown = given.keys() - _NUMBERS
        if unknown:
            known = ", ".join((*_NUMBERS, *_FILES))
            raise ConfigError(f"broker URL: unknown option {', '.join(sorted(unknown))}: there are {known}")
        numbers = {key: int(value) for key, value in given.items()}
    except ValueError as error:
        raise ConfigError(f"broker URL: {error}") from error
    if parts.scheme not in ("amqp", "amqps"):
        raise ConfigError(f"broker URL: scheme {parts.scheme!r} is not amqp or amqps")
    if files and parts.scheme != "amqps":
        raise ConfigError(f"broker URL: {', '.join(files)} is for amqps://")
    if any(value < 1 for value in numbers.values()):
        raise ConfigError("broker URL: heartbeat and delivery_limit are at least 1")
    tls = parts.scheme == "amqps"
    credentials, _, addresses = parts.netloc.rpartition("@")
    user, _, password = credentials.partition(":")
    return AmqpUrl(
        nodes=tuple(dict.fromkeys(_node(address, 5671 if tls else 5672) for address in addresses.split(","))),
        tls=tls,
        user=unquote(user or "guest"),
        password=unquote(password or "guest"),
        vhost=unquote(parts.path[1:]) or "/",
        heartbeat=numbers.get("heartbeat", DEFAULT_HEARTBEAT),
        delivery_limit=numbers.get("delivery_limit", DEFAULT_DELIVERY_LIMIT),
        **files,
    )


def _node(address: str, default_port: int) -> Node:
    found = _NODE.fullmatch(address)
    if found is None or int(found["port"] or default_port) > 65535:
        raise ConfigError(f"broker URL: {address!r} is not a host with a port: write host:5672, or h1:5672,h2:5672")
    return Node(found["literal"] or found["host"] or "localhost", int(found["port"] or default_port))
