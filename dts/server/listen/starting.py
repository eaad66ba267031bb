"""What a server answers before it can start: it waits for a store that may need a key file which is not here.

A port that accepts connections and answers nothing would look like a server that hangs, and an orchestrator would
start it again and again.
"""

from __future__ import annotations

import socket
from collections.abc import Sequence
from http import HTTPStatus

import msgspec
from tornado.httpserver import HTTPServer
from tornado.web import Application, RequestHandler

from dts.server.consts import ErrorCode

_RETRY_AFTER = "5"


class _StartingHandler(RequestHandler):
    """Says that the process lives, and that the server is not there yet."""

    def prepare(self) -> None:
        path = self.request.path
        self.set_header("Content-Type", "application/json; charset=utf-8")
        if path.endswith("/health/live"):
            self.finish(msgspec.json.encode({"result": {"status": "ok"}}))
            return
        self.set_status(HTTPStatus.SERVICE_UNAVAILABLE)
        self.set_header("Retry-After", _RETRY_AFTER)
        if path.endswith("/health/ready"):
            self.finish(msgspec.json.encode({"result": {"status": "unavailable", "store": "unavailable"}}))
            return
        details = {"code": ErrorCode.STORE_UNAVAILABLE.code, "message": "the server waits for its store"}
        self.finish(msgspec.json.encode({"error": details}))


class StartingServer:
    """Answers on listening sockets, which stay open, until it is stopped."""

    def __init__(self, sockets: Sequence[socket.socket]) -> None:
        self._server = HTTPServer(Application(default_handler_class=_StartingHandler))
        self._server.add_sockets([each.dup() for each in sockets])

    async def stop(self) -> None:
        """Accept no more, and end the connections."""
        self._server.stop()
        await self._server.close_all_connections()
