"""`/openapi.json` and `/docs`: the interface, for programs and for people; not signed."""

from __future__ import annotations

from pathlib import Path

from dts.server.consts import CONTENT_JSON, ErrorCode
from dts.server.handlers._base import DtsHandler
from dts.server.handlers.declare import declares
from dts.server.handlers.errors import ApiError

_ASSETS = Path(__file__).parents[1] / "static"
_TYPES = {".html": "text/html", ".js": "text/javascript", ".css": "text/css"}
_POLICY = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; base-uri 'none'"


class OpenApiHandler(DtsHandler):
    """`/openapi.json`: the interface as OpenAPI 3.1."""

    @declares(gives=(CONTENT_JSON,))
    def get(self) -> None:
        """The document itself, without an envelope."""
        self.set_header("Content-Type", CONTENT_JSON)
        self.finish(self.context.openapi)


class _AssetsHandler(DtsHandler):
    def send_asset(self, name: str) -> None:
        """Send a file that comes with DTS.

        Raises:
            ApiError: there is no such file.
        """
        if name not in (path.name for path in _ASSETS.iterdir()):
            raise ApiError(ErrorCode.NOT_FOUND, f"there is no file {name[:80]!r}")
        path = _ASSETS / name
        self.set_header("Content-Type", f"{_TYPES[path.suffix]}; charset=utf-8")
        self.set_header("Content-Security-Policy", _POLICY)
        self.finish(path.read_bytes())


class DocsHandler(_AssetsHandler):
    """`/docs`: a page that shows it."""

    @declares(gives=("text/html",))
    def get(self) -> None:
        """The page; it asks nobody but this server."""
        self.send_asset("docs.html")


class AssetHandler(_AssetsHandler):
    """`/docs/FILE`: what the page is made of."""

    @declares(gives=tuple(_TYPES.values()))
    def get(self, name: str) -> None:
        """A file."""
        self.send_asset(name)
