"""Tornado's HTTP server over connections that are looked after."""

from __future__ import annotations

import socket
from collections.abc import Awaitable
from typing import Any

from tornado.http1connection import HTTP1Connection
from tornado.httpserver import HTTPServer
from tornado.httputil import (
    HTTPConnection,
    HTTPHeaders,
    HTTPMessageDelegate,
    RequestStartLine,
    ResponseStartLine,
)

from dts.server.listen.peers import Peer, Peers, Phase

MAX_HEAD = 16 * 1024  # bytes


class PeerServer(HTTPServer):
    """Serves the connections that it is given, and says of each what it waits for."""

    peers: Peers

    def take(self, connection: socket.socket, address: tuple[Any, ...]) -> None:
        """Serve a connection, if there is room."""
        if (peer := self.peers.add(connection, str(address[0]))) is not None:
            self.handle_stream(peer, address)

    def start_request(self, server_conn: object, request_conn: HTTPConnection) -> HTTPMessageDelegate:
        """Called by Tornado when a connection waits for the head of a request."""
        delegate = super().start_request(server_conn, request_conn)
        stream = request_conn.stream if isinstance(request_conn, HTTP1Connection) else None
        if not isinstance(stream, Peer):
            return delegate
        stream.enter(Phase.HEAD)
        return _Watched(delegate, stream)


class _Watched(HTTPMessageDelegate):
    """Passes a request on, and notes on its way how far it is."""

    def __init__(self, inner: HTTPMessageDelegate, peer: Peer) -> None:
        self._inner = inner
        self._peer = peer

    async def _begin(self, start_line: RequestStartLine | ResponseStartLine, headers: HTTPHeaders) -> None:
        self._peer.enter(Phase.ANSWER)
        if (prepared := self._inner.headers_received(start_line, headers)) is not None:
            await prepared
        self._peer.enter(Phase.BODY)  # not before it is read: its sender is not to blame for the time until then

    def headers_received(
        self, start_line: RequestStartLine | ResponseStartLine, headers: HTTPHeaders
    ) -> Awaitable[None] | None:
        return self._begin(start_line, headers)

    def data_received(self, chunk: bytes) -> Awaitable[None] | None:
        return self._inner.data_received(chunk)

    def finish(self) -> None:
        self._peer.enter(Phase.ANSWER)
        self._inner.finish()

    def on_connection_close(self) -> None:
        self._inner.on_connection_close()


def peer_of(connection: Any) -> Peer | None:
    """The connection that a request came over; None for one that is not looked after."""
    stream = getattr(connection, "stream", None)
    return stream if isinstance(stream, Peer) else None
