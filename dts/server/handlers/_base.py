"""What every handler has in common: signatures, bodies with a limit, the envelope of answers and errors."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from functools import wraps
from http import HTTPStatus
from typing import Annotated, Any, Concatenate, ParamSpec, TypeVar, cast

import msgspec
from tornado.iostream import StreamClosedError
from tornado.web import HTTPError, RequestHandler, stream_request_body

from dts.auth import SCHEME, SIGNED_HEADERS, Request
from dts.errors import AuthError, BrokerUnavailable, DtsError, StoreUnavailable
from dts.model import User
from dts.server.access.accounts import Caller
from dts.server.access.limits import OverLimit
from dts.server.access.roles import PUBLIC, TABLE, Scope
from dts.server.consts import CONTENT_JSON, MAX_PAGE, RETRY_AFTER, ErrorCode
from dts.server.context import Context
from dts.server.handlers.declare import declaration_of
from dts.server.handlers.errors import ApiError, describe_error
from dts.server.handlers.request_body import RequestBody
from dts.server.handlers.rights import not_for, permitted, plugin_asked_for
from dts.server.handlers.validation_messages import in_words
from dts.server.intake.ingest import describe_json_error
from dts.server.listen.http import peer_of

logger = logging.getLogger(__name__)

P = ParamSpec("P")
H = TypeVar("H", bound="DtsHandler")
T = TypeVar("T")

METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")

_UNLIMITED = ("/admin/", "/whoami")
"""Where requests of administrators do not count against their rate."""

_FOR_REPLACED_SECRETS = ("/jobs/", "/runs/")
"""What a secret that has been replaced signs in its grace time, besides reading: jobs, and nothing about accounts."""

_PATIENCE = 30.0
"""Seconds for which a body waits for room in memory before its sender is asked to try again."""

_LINGER = 5.0
"""Seconds for which the body of a refused request is read and thrown away: many senders read no answer before they have
sent everything, and lose it when the connection is closed in the middle."""

_LINGER_BYTES = 2 * 1024 * 1024
"""How much of such a body is thrown away at most: a block of a usual size, not an attacker's stream."""


class PageQuery(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """Which part of a list: so many rows, from the one that follows the id `after`."""

    limit: Annotated[int, msgspec.Meta(ge=1, le=MAX_PAGE)] = 100
    after: str | None = None


@stream_request_body
class DtsHandler(RequestHandler):
    """Base of all handlers. Methods answer with `self.answer`, and raise ApiError or any DtsError."""

    on_record: Mapping[str, Any] | None = None
    """What the operation log holds of a write when that is more than what was asked for: how it was before, too."""

    scope = Scope.NONE
    """How far the caller's roles reach in this request; known once it is authenticated."""

    def initialize(self, context: Context, template: str = "") -> None:
        """Take the services of the process, and the route that led here; called by Tornado."""
        self.context = context
        self.template = template
        self.caller: Caller | None = None
        self._body = RequestBody(context.settings.max_body)
        self._refused = False
        self.at_work = False
        """Whether the body has come and its method runs."""
        self._reserved: tuple[str, int] | None = None
        self._linger: asyncio.TimerHandle | None = None

    # the head

    async def prepare(self) -> None:
        """Refuse a request by its head, before any of its body is read."""
        try:
            await self.check_head()
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
        if getattr(method, "signed", False):
            self.caller = await self.authenticate()
            if (peer := peer_of(self.request.connection)) is not None:
                peer.prove()
        elif self._has_body():
            self._unimplemented_method()
        if self._announced() > self.context.settings.max_body:
            raise self._over_limit()
        if self.caller is not None and self._has_body():
            await self._reserve(self.caller.user.id, self._announced() or self.context.settings.max_body)

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
        length = self.request.headers.get("Content-Length", "0")
        return int(length) if length.isascii() and length.isdigit() else 0

    def _has_body(self) -> bool:
        return self._announced() > 0 or "Transfer-Encoding" in self.request.headers

    async def _refuse(self, error: HTTPError | DtsError) -> None:
        """Send the answer to a request whose body is on its way, and throw that away for a while."""
        self._refused = True
        self._body.discard()
        self.log_exception(type(error), error, error.__traceback__)
        content = self._error_content(error, error.status_code if isinstance(error, HTTPError) else 500)
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

    def params(self, kind: type[T]) -> T:
        """The value of `params` in the body, as the given type.

        Raises:
            ApiError: the body is not JSON, is no object, or a field is missing, unknown or of the wrong type.
        """
        try:
            params: T = msgspec.json.decode(self.body(), type=_envelope(kind)).params
            return params
        except msgspec.ValidationError as error:
            missing = "missing required field" in str(error)
            code = ErrorCode.ARGUMENT_MISSING if missing else ErrorCode.ARGUMENT_INVALID
            raise ApiError(code, in_words(str(error))) from error
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            message = f"the body is not valid JSON: {describe_json_error(error)}"
            raise ApiError(ErrorCode.JSON_INVALID, message) from error

    def query(self, kind: type[T]) -> T:
        """The arguments in the query, as the given Struct.

        Raises:
            ApiError: one is unknown or of the wrong type; the message names it.
        """
        arguments = {name: self.get_query_argument(name, strip=False) for name in self.request.query_arguments}
        try:
            found = msgspec.convert(arguments, kind, strict=False)
            _check_finite(found)
            return found
        except msgspec.ValidationError as error:
            message = f"in the query: {in_words(str(error), got=False)}"
            raise ApiError(ErrorCode.ARGUMENT_INVALID, message) from error

    def check_query(self, kind: type[msgspec.Struct] | None) -> None:
        """Make sure that the query has only arguments that this Struct has, or none at all, and each of them once.

        Raises:
            ApiError: it does not; the message names the argument.
        """
        known = kind.__struct_fields__ if kind is not None else ()
        for name, values in self.request.query_arguments.items():
            problem = ""
            if name not in known:
                problem = f"there is no argument {name[:40]!r} here, only {', '.join(known) or 'none at all'}"
            elif len(values) > 1:
                problem = f"{name} is there {len(values)} times: give it once"
            if problem:
                raise ApiError(ErrorCode.ARGUMENT_INVALID, f"in the query: {problem}")

    def number_argument(self, name: str, default: float, *, most: float) -> float:
        """A number from 0 in the query; one over `most` is taken as `most`.

        Raises:
            ApiError: it is no such number.
        """
        text = self.get_query_argument(name, None)
        if text is None:
            return default
        try:
            number = float(text)
        except ValueError:
            number = math.nan
        if not 0 <= number < math.inf:  # also refuses NaN
            raise ApiError(ErrorCode.ARGUMENT_INVALID, f"{name} must be a number from 0, not {text[:40]!r}")
        return min(number, most)

    def _over_limit(self) -> ApiError:
        limit = self.context.settings.max_body
        return ApiError(ErrorCode.TOO_LARGE, f"the body is over the limit of {limit} bytes: send it in smaller parts")

    # who

    async def authenticate(self) -> Caller:
        """The user who signed the head of this request.

        Raises:
            AuthError: nobody did, validly.
        """
        request, names = self.request, self.context.names
        path, _, query = (request.uri or "").partition("?")
        head = Request(request.method or "", "", names.below_base_path(path), query, self._signed_headers())
        host, local = request.headers.get("Host"), self._local_address()
        hosts = names.candidates(host, local)
        try:
            return await self.context.accounts.authenticate(request.headers.get("Authorization"), head, hosts)
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

    async def check_rights(self, caller: Caller) -> None:
        """Make sure that the caller may make this request now, and note how far it reaches.

        Raises:
            ApiError: their roles do not allow it, or their secret has been replaced.
            OverLimit: they make too many.
        """
        user, method = caller.user, self.request.method or ""
        try:
            self.scope = permitted(user, method, self.template)
        except ApiError:
            if plugin := plugin_asked_for(method, self.template, self.body()):
                raise not_for(user, plugin) from None
            raise
        if caller.replaced and method != "GET" and not self.template.startswith(_FOR_REPLACED_SECRETS):
            raise ApiError(ErrorCode.FORBIDDEN, "this needs the new secret: one that was replaced is for jobs alone")
        # An administrator who is locked out by a limit could not lift it.
        if not (user.is_administrator and self.template.startswith(_UNLIMITED)):
            await self.context.limiter.take_request(user)

    def check_member(self, user: User, namespace: str) -> None:
        """Make sure that the caller may go as far as this namespace.

        Raises:
            ApiError: it is not one of theirs.
        """
        if self.scope is not Scope.ALL and not user.belongs_to(namespace):
            raise ApiError(
                ErrorCode.FORBIDDEN,
                f"{user.id} does not belong to the namespace {namespace}: an administrator can add it to the "
                "user's namespaces",
            )

    # answers

    def answer(self, result: object, status: int = 200) -> None:
        """Send a success."""
        self.set_status(status)
        self.set_header("Content-Type", CONTENT_JSON)
        self.finish(msgspec.json.encode({"result": result}))

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        """Send an error in its envelope; called by Tornado for whatever a handler raised."""
        self.finish(self._error_content(kwargs.get("exc_info", (None, None, None))[1], status_code))

    def _error_content(self, error: BaseException | None, status_code: int) -> bytes:
        """The body of an error's answer, whose status and headers are set on the way."""
        code, message = describe_error(error, status_code)
        details = {"code": code.code, "message": message}
        if isinstance(error, OverLimit):
            details["limit"] = error.limit
            self.set_header("Retry-After", str(error.retry_after))
        if code.status == HTTPStatus.SERVICE_UNAVAILABLE:
            self.set_header("Retry-After", str(RETRY_AFTER))
        if code is ErrorCode.METHOD_NOT_ALLOWED:
            self.set_header("Allow", ", ".join(self._methods()))
        if code is ErrorCode.UNAUTHORIZED:
            self.set_header("WWW-Authenticate", SCHEME)
        self.set_status(code.status)
        self.set_header("Content-Type", CONTENT_JSON)
        return msgspec.json.encode({"error": details})

    def _methods(self) -> list[str]:
        """The methods that there are for this path, for those whose roles allow them."""
        own = [
            name for name in METHODS if getattr(type(self), name.lower()) is not getattr(RequestHandler, name.lower())
        ]
        return [name for name in own if self.template in PUBLIC or (name, self.template) in TABLE]

    @staticmethod
    def code_of(error: Exception) -> str:
        """The code that the caller sees for an error that a method raised."""
        status = error.status_code if isinstance(error, HTTPError) else 500
        return describe_error(error, status)[0].code

    def log_exception(self, typ: Any, value: BaseException | None, tb: Any) -> None:
        """Log only what is a fault of the server, or of what is behind it; refusals are the caller's."""
        status = value.status_code if isinstance(value, HTTPError) else 500
        if value is None:
            return
        method, path = self.request.method, self.request.path
        if describe_error(value, status)[0] is ErrorCode.INTERNAL_ERROR:
            logger.error("%s %.200r failed", method, path, exc_info=value)
        elif isinstance(value, StoreUnavailable | BrokerUnavailable):
            self.context.outages.failed(
                "%s %.200r was answered 503, and so are others until this is over: %s",
                *(method, path, value.__cause__ or value),
            )

    def compute_etag(self) -> None:
        """No automatic ETag: it would hash every answer for nobody."""

    def set_default_headers(self) -> None:
        """Say nothing of the software in use."""
        self.clear_header("Server")


class NotFoundHandler(DtsHandler):
    """Answers for paths that there are not."""

    async def check_head(self) -> None:
        """There is nothing to do here, for anybody."""
        raise ApiError(ErrorCode.NOT_FOUND, f"there is nothing at {self.request.path[:200]}")


def signed(
    method: Callable[Concatenate[H, User, P], Awaitable[None]],
) -> Callable[Concatenate[H, P], Coroutine[Any, Any, None]]:
    """Let a handler's method run for a user who signed the request and whose roles allow it, and for nobody else."""
    declaration = declaration_of(method)
    query = declaration.query if declaration is not None else None

    @wraps(method)
    async def wrapper(self: H, /, *args: P.args, **kwargs: P.kwargs) -> None:
        assert self.caller is not None  # prepare has seen to it
        self.body()  # nothing is done by a request whose body is not the one that was signed
        self.at_work = True
        try:
            await self.check_rights(self.caller)
            self.check_query(getattr(getattr(self, "resource", None), query) if isinstance(query, str) else query)
            await method(self, self.caller.user, *args, **kwargs)
            self.context.outages.worked("requests are answered again")
        finally:
            self.release_body()

    wrapper.signed = True  # type: ignore[attr-defined]  # lets a test prove that no route forgot it
    return cast("Callable[Concatenate[H, P], Coroutine[Any, Any, None]]", wrapper)


def _check_finite(arguments: object) -> None:
    """Make sure that no argument of a query is infinite or not a number, which no database can look for.

    Raises:
        ApiError: one is; the message names it.
    """
    for name in getattr(arguments, "__struct_fields__", ()):
        value = getattr(arguments, name)
        if isinstance(value, float) and not math.isfinite(value):
            raise ApiError(ErrorCode.ARGUMENT_INVALID, f"in the query: {name} must be a finite number, not {value}")


_envelopes: dict[type[Any], type[Any]] = {}


def _envelope(kind: type[Any]) -> type[Any]:
    """The type `{"params": kind}`."""
    if kind not in _envelopes:
        _envelopes[kind] = msgspec.defstruct("Body", [("params", kind)], forbid_unknown_fields=True)
    return _envelopes[kind]
