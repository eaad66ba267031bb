"""A port of its own for a process that serves no HTTP otherwise: its figures, and whether it lives and is ready."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import msgspec
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from tornado.httpserver import HTTPServer
from tornado.netutil import bind_sockets
from tornado.web import Application, RequestHandler

from dts.config import MetricsSettings
from dts.errors import ConfigError
from dts.runtime.service import Service

logger = logging.getLogger(__name__)

Missing = Callable[[], Awaitable[Mapping[str, str]]]
"""What a process is not ready for want of: names of parts, with why. Empty when it is ready."""


class Monitor(Service):
    """Answers GET and HEAD of `/metrics`, `/health/live` and `/health/ready`; nothing if no port is set."""

    def __init__(self, settings: MetricsSettings, missing: Missing) -> None:
        super().__init__()
        self._settings = settings
        self._missing = missing
        self.port = settings.port

    async def _start(self) -> None:
        if not self._settings.port:
            return
        try:
            sockets = bind_sockets(self._settings.port, self._settings.host)
        except OSError as error:
            raise ConfigError(
                f"cannot listen on {self._settings.host}:{self._settings.port} for metrics: {error.strerror or error}; "
                "choose another with [metrics] port, or 0 for none"
            ) from error
        self.port = sockets[0].getsockname()[1]
        missing = {"missing": self._missing}
        routes: list[Any] = [("/metrics", _Metrics), ("/health/live", _Live), ("/health/ready", _Ready, missing)]
        server = HTTPServer(Application(routes, log_function=lambda handler: None))
        server.add_sockets(sockets)
        self._stack.push_async_callback(server.close_all_connections)
        self._stack.callback(server.stop)
        logger.info("metrics and health on http://%s:%d", self._settings.host, self.port)


class _Metrics(RequestHandler):
    def get(self) -> None:
        self.set_header("Content-Type", CONTENT_TYPE_LATEST)
        self.finish(generate_latest())

    head = get


class _Live(RequestHandler):
    def get(self) -> None:
        self.finish({"status": "ok"})

    head = get


class _Ready(RequestHandler):
    def initialize(self, missing: Missing) -> None:
        self._missing = missing

    async def get(self) -> None:
        missing = dict(await self._missing())
        self.set_status(503 if missing else 200)
        self.set_header("Content-Type", "application/json")
        self.finish(msgspec.json.encode({"status": "unavailable" if missing else "ok", "missing": missing}))

    head = get
