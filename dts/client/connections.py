"""HTTP/1.1 connections that serve one request after another, on Tornado's streams and its protocol.

Tornado's own client opens a connection for each request, which costs more than a block of jobs costs the server, and a
round trip or three more over TLS.
"""

from __future__ import annotations

import asyncio
import select
import socket
import ssl
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

from tornado.http1connection import HTTP1Connection, HTTP1ConnectionParameters
from tornado.httputil import HTTPHeaders, HTTPMessageDelegate, RequestStartLine, ResponseStartLine
from tornado.iostream import IOStream, StreamClosedError
from tornado.tcpclient import TCPClient

from dts.client.proxies import Proxy, ProxyError
from dts.client.traffic import Traffic

_MAX_IDLE = 15.0
"""Seconds after which an idle connection is not used again: less than any server or proxy on the way keeps one."""

_KEEP_ALIVE = {"TCP_KEEPIDLE": 5, "TCP_KEEPINTVL": 3, "TCP_KEEPCNT": 3}
"""Seconds without traffic before the first probe, seconds between probes, and how many may stay unanswered."""

_NOT_TLS = "WRONG_VERSION_NUMBER"
"""What OpenSSL calls an answer that is not TLS at all."""


class ConnectError(OSError):
    """No connection came about: the server has seen nothing of the request. Its cause says why."""


class NoTls(ConnectError):
    """The other side takes connections, but does not answer in the way of TLS: it may serve http."""


class StaleConnection(OSError):
    """A connection that had served before was closed by the other side, and no answer came."""


class ConnectionLost(OSError):
    """The other side closed the connection in the middle."""


@dataclass(frozen=True, slots=True)
class Response:
    """An answer as it came; `seconds` is how long its body took."""

    status: int
    reason: str
    headers: HTTPHeaders
    body: bytes
    seconds: float


class Connections:
    """Connections to one server, at most `most` at a time; further requests wait for one.

    `origin` is `http://host:port` or https, then with `tls`. An answer of more than `max_answer` bytes is refused. All
    of them go through a `proxy` if one is given.
    """

    def __init__(
        self, origin: str, *, tls: ssl.SSLContext | None, most: int, max_answer: int, proxy: Proxy | None = None
    ) -> None:
        self._origin = origin
        self._proxy = proxy
        parts = urlsplit(origin)
        self._address = parts.hostname or "", parts.port or (443 if tls else 80)
        self._netloc = parts.netloc
        self._tls = tls
        self._max_answer = max_answer
        self._slots = asyncio.Semaphore(most)
        self._tcp = TCPClient()
        self._idle: list[tuple[float, IOStream]] = []
        self._busy: set[IOStream] = set()

    def close(self) -> None:
        """Close all connections; requests under way are dropped."""
        for stream in [*(stream for _, stream in self._idle), *self._busy]:
            stream.close()
        self._idle.clear()
        self._tcp.close()

    async def fetch(
        self,
        method: str,
        target: str,
        headers: Mapping[str, str],
        body: bytes | None,
        *,
        connect_timeout: float,
        timeout: float,
        traffic: Traffic | None = None,
        fresh: bool = False,
        on_data: Callable[[bytes], None] | None = None,
    ) -> Response:
        """Make a request for `target` (path and query) and return its answer, whatever its status.

        `traffic` watches it; with `fresh` it goes over a new connection. The body of a success goes to `on_data` as it
        comes, if that is given, and is not kept.

        Raises:
            TimeoutError: no byte has moved for `timeout` seconds.
            ConnectError: no connection in `connect_timeout` seconds, or none at all; NoTls if it is none of TLS.
            ProxyError: there is none through the proxy.
            ssl.SSLCertVerificationError: the server's certificate is not trusted.
            StaleConnection: try again, on another connection.
            ConnectionLost: the server may have acted on the request or not.
        """
        traffic = traffic or Traffic()
        loop = asyncio.get_running_loop()
        if self._proxy is not None and self._tls is None:
            target = f"{self._origin}{target}"
            if self._proxy.authorization:
                headers = {**headers, "Proxy-Authorization": self._proxy.authorization}
        start = RequestStartLine(method, target, "HTTP/1.1")
        async with self._slots, asyncio.timeout(None) as deadline:
            traffic.begin(timeout, lambda: deadline.reschedule(loop.time()))
            try:
                stream = None if fresh else self._take_idle()
                used = stream is not None
                if stream is None:
                    # A little less than there is in all, so that it is known what took so long.
                    stream = await self._connect(min(connect_timeout, timeout * 0.9))
                return await self._exchange_on(stream, start, headers, body, _Answer(traffic, on_data), used=used)
            finally:
                traffic.end()

    async def _exchange_on(
        self,
        stream: IOStream,
        start: RequestStartLine,
        headers: Mapping[str, str],
        body: bytes | None,
        answer: _Answer,
        *,
        used: bool,
    ) -> Response:
        """Make a request on a connection, which is kept if it can be; `used` says that it has served before."""
        self._busy.add(stream)
        keep = False
        try:
            keep = await self._exchange(stream, answer, start, headers, body)
        except StreamClosedError as error:
            if used and answer.start is None:
                raise StaleConnection("a kept connection was closed") from error
            raise ConnectionLost(*(error.real_error.args if error.real_error else ())) from error
        finally:
            self._busy.discard(stream)
            if keep:
                self._idle.append((time.monotonic(), stream))
            else:
                stream.close()
        return answer.response()

    def _take_idle(self) -> IOStream | None:
        """The connection that was used last, if it is still good."""
        while self._idle:
            since, stream = self._idle.pop()
            if time.monotonic() - since < _MAX_IDLE and _is_quiet(stream):
                return stream
            stream.close()
        return None

    async def _connect(self, timeout: float) -> IOStream:
        stream: IOStream | None = None
        try:
            async with asyncio.timeout(timeout):
                stream = await self._open()
                if self._tls is not None:
                    stream = await self._start_tls(stream, self._tls)
        except TimeoutError as error:
            raise (ConnectError if stream is None else NoTls)("timeout while connecting") from error
        except (ssl.SSLCertVerificationError, ProxyError):
            raise
        except OSError as error:
            cause = error.real_error if isinstance(error, StreamClosedError) and error.real_error else error
            kind = NoTls if isinstance(cause, ssl.SSLError) and cause.reason == _NOT_TLS else ConnectError
            raise kind(*cause.args) from cause
        stream.set_nodelay(True)
        _keep_alive(stream)
        return stream

    async def _open(self) -> IOStream:
        """A connection over which the server can be spoken to."""
        proxy = self._proxy
        if proxy is None:
            return await self._tcp.connect(*self._address, max_buffer_size=self._max_answer)
        try:
            stream = await self._tcp.connect(proxy.host, proxy.port, max_buffer_size=self._max_answer)
        except OSError as error:
            cause = error.real_error if isinstance(error, StreamClosedError) and error.real_error else error
            raise ProxyError(f"{proxy.name} is not reachable: {cause}") from error
        if self._tls is not None:
            try:
                await proxy.connect(stream, *self._address)
            except BaseException:
                stream.close()
                raise
        return stream

    async def _start_tls(self, stream: IOStream, tls: ssl.SSLContext) -> IOStream:
        try:
            handshake = stream.start_tls(False, tls, self._address[0])
        except ValueError as error:  # not idle: the other side has said something already, which no server of TLS does
            stream.close()
            raise NoTls("it speaks first") from error
        return await handshake

    async def _exchange(
        self,
        stream: IOStream,
        answer: _Answer,
        start: RequestStartLine,
        headers: Mapping[str, str],
        body: bytes | None,
    ) -> bool:
        """Send a request and read its answer; whether the connection may be used again."""
        parameters = HTTP1ConnectionParameters(max_body_size=self._max_answer)
        connection = HTTP1Connection(stream, is_client=True, params=parameters)
        fields = HTTPHeaders({"Host": self._netloc, **headers})
        if body is not None:
            fields["Content-Length"] = str(len(body))
        answer.traffic.sending(stream, len(body or b""))
        connection.write_headers(start, fields, body)
        connection.finish()
        is_open = await connection.read_response(answer)
        if not answer.finished:
            raise StreamClosedError
        return is_open and not stream.closed() and answer.keeps_alive


def _keep_alive(stream: IOStream) -> None:
    """Have the kernel find out that the other side is gone while nothing is sent: on a long wait for results."""
    sock = stream.socket
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in _KEEP_ALIVE.items():
        if (option := getattr(socket, name, None)) is not None:
            sock.setsockopt(socket.IPPROTO_TCP, option, value)


def _is_quiet(stream: IOStream) -> bool:
    """Whether a connection is open, as far as this side has heard: what an idle one has to say is that it is closed."""
    if stream.closed():
        return False
    poll = select.poll()
    poll.register(stream.fileno(), select.POLLIN)
    return not poll.poll(0)


class _Answer(HTTPMessageDelegate):
    """Gathers an answer."""

    def __init__(self, traffic: Traffic, on_data: Callable[[bytes], None] | None = None) -> None:
        self.traffic = traffic
        self._on_data = on_data
        self.start: ResponseStartLine | None = None
        self.finished = False
        self._headers = HTTPHeaders()
        self._chunks: list[bytes] = []

    def headers_received(self, start_line: RequestStartLine | ResponseStartLine, headers: HTTPHeaders) -> None:
        assert isinstance(start_line, ResponseStartLine)
        self.start, self._headers, self._began = start_line, headers, time.monotonic()
        self.traffic.received_some(1)

    def data_received(self, chunk: bytes) -> None:
        if self._on_data is not None and self.start is not None and self.start.code < 300:
            self._on_data(chunk)
        else:
            self._chunks.append(chunk)
        self.traffic.received_some(len(chunk))

    def finish(self) -> None:
        self.finished = True

    @property
    def keeps_alive(self) -> bool:
        """Whether the other side leaves the connection open."""
        assert self.start is not None
        return self.start.version == "HTTP/1.1" and self._headers.get("Connection", "").lower() != "close"

    def response(self) -> Response:
        """What was gathered."""
        assert self.start is not None
        seconds = time.monotonic() - self._began
        return Response(self.start.code, self.start.reason, self._headers, b"".join(self._chunks), seconds)
