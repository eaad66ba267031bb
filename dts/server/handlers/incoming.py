"""A request while it comes in: who signed it, whether its body may come, and where that is kept."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Sequence
from functools import cached_property
from typing import TypeVar

from tornado.iostream import StreamClosedError
from tornado.web import HTTPError, RequestHandler, stream_request_body

from dts.auth import SIGNED_HEADERS, Request
from dts.errors import AuthError, DtsError
from dts.model import new_id
from dts.runtime.logs import REQUEST, USER
from dts.server.access.accounts import Caller
from dts.server.consts import ErrorCode
from dts.server.context import Context
from dts.server.handlers.errors import ApiError
from dts.server.handlers.request_body import RequestBody
from dts.server.listen.http import peer_of

T = TypeVar("T")

_PATIENCE = 30.0
"""Seconds for which a body waits for room in memory before its sender is asked to try again."""

_LINGER = 5.0
"""Seconds for which the body of a refused request is read and thrown away: many senders read no answer before they have
sent everything, and lose it when the connection is closed in the middle."""

_LINGER_BYTES = 2 * 1024 * 1024
"""How much of such a body is thrown away at most: a block of a usual size, not an attacker's stream."""

_LONGEST_LENGTH = 18
"""Digits of a Content-Length that are read: more of them are far over any limit as well."""

REQUEST_ID = "X-Request-ID"
"""Header of requests and answers by which a client and the logs name a request."""

_REQUEST_IDS = re.compile(r"[A-Za-z0-9._:/+=-]{1,128}")


@stream_request_body
class IncomingRequest(RequestHandler):
    """The part of a handler that has to do with the request before its method runs."""

    def initialize(self, context: Context, template: str = "") -> None:
        """Take the services of the process, and the route that led here; called by Tornado."""
        self.context = context
        self.template = template
        self.caller: Caller | None = None
        self.at_work = False
        """Whether the body has come and its method runs."""
        self._body = RequestBody(self.body_limit())
        self._refused = False
        self._reserved: tuple[str, int] | None = None
        self._linger: asyncio.TimerHandle | None = None

    def body_limit(self) -> int:
        """Bytes that the body of this request may have."""
        return self.context.settings.max_body

    def error_content(self, error: BaseException | None, status_code: int) -> bytes:
        """The body of an error's answer, whose status and headers are set on the way."""
        raise NotImplementedError

    @cached_property
    def request_id(self) -> str:
        """The id that the request came with, if it can be one; else a new one. The log names it, too."""
        given = self.request.headers.get(REQUEST_ID, "")
        return given if _REQUEST_IDS.fullmatch(given) else new_id()

    # the head

    async def prepare(self) -> None:
        """Refuse a request by its head, before any of its body is read."""
        REQUEST.set(self.request_id)
        try:
            await self.check_head()
            if self._reserved is None:
                self._body.discard()  # nothing is kept that no room was made for
        except (HTTPError, DtsError) as error:
            if not self._has_body() or self.request.headers.get("Expect"):
                raise
            await self._refuse(error)

    async def check_head(self) -> None:
        """Find out who the caller is, and whether the body may come.

        Raises:
            AuthError: the method needs a signature, and the head has no valid one.
            ApiError: there is no such method, or the body is too large.
        """
        method = getattr(self, (self.request.method or "").lower(), None)
        if getattr(method, "authorized", False):
            self.caller = await self.authenticate()
            USER.set(self.caller.user.id)
            if (peer := peer_of(self.request.connection)) is not None:
                peer.prove()
        elif self._has_body():
            self._unimplemented_method()
        if self._announced() > self.body_limit():
            raise self._over_limit()
        if self.caller is not None and self._has_body():
            await self._reserve(self.caller.user.id, self._announced() or self.body_limit())

    async def _reserve(self, user: str, size: int) -> None:
        """Wait until there is room for the body.

        Raises:
            ApiError: others take all of it.
        """
        try:
            await self.context.bodies.reserve(user, size, _PATIENCE)
        except TimeoutError:
            message = "the server receives as much at once as it has room for: try again in a moment"
            raise ApiError(ErrorCode.OVERLOADED, message) from None
        self._reserved = user, size

    def release_body(self) -> None:
        """Give back the room that the body took."""
        self._body.discard()  # not when Python gets round to it: a request is part of cycles
        if self._reserved is not None:
            self.context.bodies.release(*self._reserved)
            self._reserved = None

    def _announced(self) -> int:
        """Bytes of the body by Content-Length; what is no number is for Tornado to refuse."""
        length = self.request.headers.get("Content-Length", "0")
        length = length.partition(",")[0].strip()  # Tornado takes "5, 5" for 5, and refuses "5, 6"
        return int(length.lstrip("0")[:_LONGEST_LENGTH] or "0") if length.isascii() and length.isdigit() else 0

    def _has_body(self) -> bool:
        return self._announced() > 0 or "Transfer-Encoding" in self.request.headers

    async def _refuse(self, error: HTTPError | DtsError) -> None:
        """Send the answer to a request whose body is on its way, and throw that away for a while."""
        self._refused = True
        self._body.discard()
        self.log_exception(type(error), error, error.__traceback__)
        content = self.error_content(error, error.status_code if isinstance(error, HTTPError) else 500)
        self.set_header("Connection", "close")
        self.set_header("Content-Length", str(len(content)))
        self.write(content)
        try:
            await self.flush()
        except StreamClosedError:
            return
        self._linger = asyncio.get_running_loop().call_later(_LINGER, self._end_refused)
        setattr(self, (self.request.method or "").lower(), self._end_refused)  # the answer is out: nothing else to do

    def _end_refused(self, *_: str) -> None:
        if not self._finished:
            self.finish()
        if (peer := peer_of(self.request.connection)) is not None:
            peer.close()

    def on_finish(self) -> None:
        """The answer is complete: called by Tornado."""
        self.release_body()
        if self._linger is not None:
            self._linger.cancel()

    def on_connection_close(self) -> None:
        """The client has left: called by Tornado."""
        super().on_connection_close()
        if not self.at_work:
            self.release_body()

    # the body

    async def data_received(self, chunk: bytes) -> None:
        """Keep a piece of the body; called by Tornado."""
        self._body.add(chunk)
        if self._refused and self._body.received > _LINGER_BYTES:
            self._end_refused()
        elif self._body.too_large and not self._refused:
            await self._refuse(self._over_limit())

    def body(self) -> bytes:
        """The body as it came.

        Raises:
            ApiError: it is over the limit.
            AuthError: it is not the one that was signed.
        """
        if self._body.too_large:
            raise self._over_limit()
        if self.caller is None or not self._body.has_digest(self.caller.claim.digest):
            raise AuthError
        return self._body.content()

    def _over_limit(self) -> ApiError:
        limit = self.body_limit()
        return ApiError(ErrorCode.TOO_LARGE, f"the body is over the limit of {limit} bytes: send it in smaller parts")

    async def authenticate(self) -> Caller:
        """The user who signed the head of this request.

        Raises:
            AuthError: nobody did, validly.
        """
        return await self.authenticate_by(self.context.accounts.authenticate)

    async def authenticate_by(self, check: Callable[[str | None, Request, Sequence[str]], Awaitable[T]]) -> T:
        """What `check` finds, given the header with the signature, the head that is signed, and its possible hosts.

        Raises:
            AuthError: as `check` does, with a hint where the host may be the reason.
        """
        request, names = self.request, self.context.names
        path, _, query = (request.uri or "").partition("?")
        head = Request(request.method or "", "", names.below_base_path(path), query, self._signed_headers())
        host, local = request.headers.get("Host"), self._local_address()
        hosts = names.candidates(host, local)
        try:
            return await check(request.headers.get("Authorization"), head, hosts)
        except AuthError as error:
            raise AuthError(f"{error}{names.hint(host, local)}") from None

    def _signed_headers(self) -> dict[str, str]:
        """Those headers that are signed.

        Raises:
            ApiError: one is there twice, so that its meaning would not be certain.
        """
        found = {name: self.request.headers.get_list(name) for name in SIGNED_HEADERS}
        for name, values in found.items():
            if len(values) > 1:
                raise ApiError(
                    ErrorCode.ARGUMENT_INVALID, f"the header {name} is there {len(values)} times: send it once"
                )
        return {name: values[0] for name, values in found.items() if values}

    def client_address(self) -> str:
        """The address of the client: that of the connection, or what a trusted proxy says."""
        forwarded = self.request.headers.get_list("X-Forwarded-For")
        return self.context.proxies.client(self.request.remote_ip or "", forwarded)

    def _local_address(self) -> str:
        """The address at which the connection of this request came in."""
        peer = peer_of(self.request.connection)
        return peer.local_address if peer is not None else ""
