"""The store seam: `open_store(url)` gives a Store, and nothing above knows which."""

from __future__ import annotations

from urllib.parse import urlsplit

from dts.errors import ConfigError
from dts.store.abc import Store

__all__ = ["Store", "open_store"]


def open_store(url: str) -> Store:
    """The store for a URL: `mongodb://host:27017/database`, or `sqlite:///path/to/store.db`.

    The caller starts it. Back ends are imported on use, so that nobody needs the packages of the one they do not use.

    Raises:
        ConfigError: no back end serves such a URL.
    """
    scheme = urlsplit(url).scheme
    if scheme in ("mongodb", "mongodb+srv"):
        from dts.store.mongo.store import MongoStore

        return MongoStore(url)
    if scheme == "sqlite":
        from dts.store.sqlite.store import SqliteStore

        return SqliteStore(url)
    raise ConfigError(f"store URL {url!r}: write mongodb://host:27017/database or sqlite:///path/to/store.db")
