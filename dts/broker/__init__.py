"""The broker seam: `open_broker(url)` gives a Broker, and nothing above knows which."""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import urlsplit

from dts.broker.abc import (
    Broker,
    Consumer,
    Delivery,
    Event,
    Message,
    Origin,
    QueueDepth,
    Subscription,
    origin,
    revived,
)
from dts.broker.sealed import SealedBroker
from dts.errors import ConfigError
from dts.wire.queues import jobs_queue
from dts.wire.seal import Seal

__all__ = [
    "Broker",
    "Consumer",
    "Delivery",
    "Event",
    "Message",
    "Origin",
    "QueueDepth",
    "Subscription",
    "open_broker",
    "origin",
    "revived",
]


def open_broker(url: str, routes: Mapping[str, str] | None = None, *, seal: Seal | None = None) -> Broker:
    """The broker for a URL: `amqp://user:password@host:5672,host2:5672/vhost`, or `sqlite:///path/to/queue.db`.

    `routes` has the URLs of brokers by the route whose jobs are with them. With a `seal` all messages and events carry
    it, and others are refused; every process of a fleet has the same one.

    The caller starts it. Back ends are imported on use, so that nobody needs the packages of the one they do not use.

    Raises:
        ConfigError: no back end serves such a URL.
    """
    if seal is not None:
        return SealedBroker(open_broker(url, routes), seal)
    if routes:
        from dts.broker.routed import RoutedBroker

        brokers = {other: open_broker(other) for other in set(routes.values())}
        return RoutedBroker(open_broker(url), {jobs_queue(route): brokers[other] for route, other in routes.items()})
    scheme = urlsplit(url).scheme
    if scheme in ("amqp", "amqps"):
        from dts.broker.amqp.broker import AmqpBroker

        return AmqpBroker(url)
    if scheme == "sqlite":
        from dts.broker.sqlite.broker import SqliteBroker

        return SqliteBroker(url)
    raise ConfigError(f"broker URL {url!r}: write amqp://user:password@host/vhost or sqlite:///path/to/queue.db")
