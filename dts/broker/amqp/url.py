"""What an AMQP URL says: `amqp://user:password@host:5672/vhost?heartbeat=10&delivery_limit=20`."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import parse_qsl, unquote, urlsplit

from dts.broker.abc import DEFAULT_DELIVERY_LIMIT
from dts.errors import ConfigError

DEFAULT_HEARTBEAT = 10
"""Seconds. A peer that is silent for twice as long is taken for dead."""


@dataclass(frozen=True, slots=True)
class AmqpUrl:
    """Where to connect, as whom, and the options of a broker."""

    host: str
    port: int
    tls: bool
    user: str
    password: str
    vhost: str
    heartbeat: int = DEFAULT_HEARTBEAT
    delivery_limit: int = DEFAULT_DELIVERY_LIMIT

    def __str__(self) -> str:
        """The address without the password, for logs."""
        vhost = "" if self.vhost == "/" else self.vhost
        return f"{'amqps' if self.tls else 'amqp'}://{self.user}@{self.host}:{self.port}/{vhost}"


def parse_amqp_url(url: str) -> AmqpUrl:
    """Read an AMQP URL. User, password and vhost are percent-decoded; no path, or `/`, is the vhost `/`.

    Raises:
        ConfigError: it is not one, or has an unknown option.
    """
    try:
        parts = urlsplit(url)
        port = parts.port
        options = {key: int(value) for key, value in parse_qsl(parts.query, strict_parsing=bool(parts.query))}
    except ValueError as error:
        raise ConfigError(f"broker URL: {error}") from error
    if parts.scheme not in ("amqp", "amqps"):
        raise ConfigError(f"broker URL: scheme {parts.scheme!r} is not amqp or amqps")
    unknown = options.keys() - {"heartbeat", "delivery_limit"}
    if unknown:
        raise ConfigError(f"broker URL: unknown option {', '.join(sorted(unknown))}")
    if any(value < 1 for value in options.values()):
        raise ConfigError("broker URL: heartbeat and delivery_limit are at least 1")
    tls = parts.scheme == "amqps"
    return AmqpUrl(
        host=parts.hostname or "localhost",
        port=port or (5671 if tls else 5672),
        tls=tls,
        user=unquote(parts.username or "guest"),
        password=unquote(parts.password or "guest"),
        vhost=unquote(parts.path[1:]) or "/",
        **options,
    )
