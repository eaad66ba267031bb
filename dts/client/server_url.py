"""The URL of a server: what it may look like, and what it says."""

from __future__ import annotations

from urllib.parse import quote, urlsplit

from dts.errors import ConfigError


def check_server_url(url: str) -> str:
    """The URL of a server, as it is.

    Raises:
        ConfigError: it is not one; says what it should look like.
    """
    split_url(url)
    return url


def is_local(url: str) -> bool:
    """Whether a URL says that its server is on this machine."""
    host = urlsplit(url).hostname or ""
    return host in ("localhost", "::1") or host.startswith("127.")


def split_url(url: str) -> tuple[str, str]:
    """The URL's origin, its host in ASCII, and its path prefix, without a slash at the end."""
    try:
        parts = urlsplit(url)
        host = (parts.hostname or "").encode("idna").decode()  # as it is looked up; fails for what is no name of a host
        valid = parts.scheme in ("http", "https") and bool(host) and " " not in host and parts.port != 0
        port = "" if parts.port is None else f":{parts.port}"
    except ValueError:
        valid = False
    if not valid or parts.username is not None or parts.query or parts.fragment:
        raise ConfigError(f"{url!r} is not the URL of a server: write http://host:port or https://host[:port][/prefix]")
    host = f"[{host}]" if ":" in host else host
    return f"{parts.scheme}://{host}{port}", quote(parts.path.rstrip("/"), safe="/%")
