"""What an SQLite broker URL says: `sqlite:///relative/path` or `sqlite:////absolute/path`, and options."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qsl, unquote, urlsplit

from dts.broker.abc import DEFAULT_DELIVERY_LIMIT
from dts.errors import ConfigError

DEFAULT_LEASE = 30.0
"""Seconds for which a taken message is hidden. Renewed while its process lives, so that only a process that stands
still for so long loses it; one that dies loses it at once."""


@dataclass(frozen=True, slots=True)
class SqliteUrl:
    """Where the queue file is, and the options of a broker."""

    path: Path
    delivery_limit: int = DEFAULT_DELIVERY_LIMIT
    lease: float = DEFAULT_LEASE


def parse_sqlite_url(url: str) -> SqliteUrl:
    """Read `sqlite:///relative/path` or `sqlite:////absolute/path`, with `?delivery_limit=` and `&lease=` (seconds).

    Raises:
        ConfigError: it is not one, or has an unknown option.
    """
    parts = urlsplit(url)
    path = unquote(parts.path[1:])
    if parts.scheme != "sqlite" or parts.netloc or not path or path == ":memory:":
        raise ConfigError(f"broker URL {url!r}: write sqlite:///relative/path or sqlite:////absolute/path")
    try:
        options = dict(parse_qsl(parts.query, strict_parsing=bool(parts.query)))
        limit = int(options.pop("delivery_limit", DEFAULT_DELIVERY_LIMIT))
        lease = float(options.pop("lease", DEFAULT_LEASE))
    except ValueError as error:
        raise ConfigError(f"broker URL {url!r}: {error}") from error
    if options:
        raise ConfigError(f"broker URL {url!r}: unknown option {', '.join(sorted(options))}")
    if limit < 1 or not (math.isfinite(lease) and lease > 0):
        raise ConfigError(f"broker URL {url!r}: delivery_limit is at least 1, and lease more than 0 seconds")
    return SqliteUrl(Path(path).absolute(), limit, lease)
