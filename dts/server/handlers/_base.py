"""What every handler has in common: signatures, bodies with a limit, the envelope of answers and errors."""

from __future__ import annotations

import logging
import math
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from functools import wraps
from http import HTTPStatus
from typing import Annotated, Any, Concatenate, ParamSpec, TypeVar, cast

import msgspec
from tornado.web import HTTPError, RequestHandler

from dts.auth import SCHEME
from dts.errors import BrokerUnavailable, StoreUnavailable
from dts.model import User
from dts.server.access.accounts import Caller
from dts.server.access.limits import OverLimit
from dts.server.access.roles import PUBLIC, TABLE, Scope
from dts.server.consts import CONTENT_JSON, MAX_PAGE, RETRY_AFTER, ErrorCode
from dts.server.handlers.declare import declaration_of
from dts.server.handlers.errors import ApiError, describe_error
from dts.server.handlers.incoming import REQUEST_ID, IncomingRequest
from dts.server.handlers.rights import not_for, permitted, plugin_asked_for
from dts.server.handlers.validation_messages import in_words
from dts.server.intake.ingest import describe_json_error

logger = logging.getLogger(__name__)

P = ParamSpec("P")
H = TypeVar("H", bound="DtsHandler")
T = TypeVar("T")

METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")

_UNLIMITED = ("/admin/", "/whoami")
"""Where requests of administrators do not count against their rate."""

_FOR_REPLACED_SECRETS = ("/jobs/", "/runs/")
"""What a secret that has been replaced signs in its grace time, besides reading: jobs, and nothing about accounts."""


class PageQuery(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """Which part of a list: so many rows, from the one that follows the id `after`."""

    limit: Annotated[int, msgspec.Meta(ge=1, le=MAX_PAGE)] = 100
    after: str | None = None


class DtsHandler(IncomingRequest):
    """Base of all handlers. Methods answer with `self.answer`, and raise ApiError or any DtsError."""

    on_record: Mapping[str, Any] | None = None
    """What the operation log holds of a write when that is more than what was asked for: how it was before, too."""

    scope = Scope.NONE
    """How far the caller's roles reach in this request; known once it is authenticated."""

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

    # who

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
        if caller.replaced and plugin_asked_for(method, self.template, self.body()):
            raise ApiError(ErrorCode.FORBIDDEN, "this needs the new secret: it runs inside the server")
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
        self.finish(self.error_content(kwargs.get("exc_info", (None, None, None))[1], status_code))

    def error_content(self, error: BaseException | None, status_code: int) -> bytes:
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
        """Say nothing of the software in use, and which request this answers."""
        self.clear_header("Server")
        self.set_header(REQUEST_ID, self.request_id)


class NotFoundHandler(DtsHandler):
    """Answers for paths that no handler serves."""

    async def check_head(self) -> None:
        """There is nothing to do here, for anybody."""
        raise ApiError(ErrorCode.NOT_FOUND, f"there is nothing at {self.request.path[:200]}")


def authorized(
    method: Callable[Concatenate[H, User, P], Awaitable[None]],
) -> Callable[Concatenate[H, P], Coroutine[Any, Any, None]]:
    """Run a handler's method only for a caller whose roles allow it, once the body matches its signed digest.

    The signature itself was verified in `prepare`, before the body was read.
    """
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

    wrapper.authorized = True  # type: ignore[attr-defined]  # lets a test prove that no route forgot it
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
