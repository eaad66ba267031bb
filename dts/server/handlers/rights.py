"""Whether a user's roles allow a request, and what is said if not."""

from __future__ import annotations

import logging

import msgspec

from dts.model import RESERVED_NAMESPACE, User
from dts.server.access.roles import Scope, roles_for, scope_of
from dts.server.consts import ErrorCode
from dts.server.handlers.errors import ApiError

logger = logging.getLogger(__name__)


def permitted(user: User, method: str, template: str) -> Scope:
    """How far a user may go with a method of a route, by the table of roles.

    Raises:
        ApiError: not at all.
    """
    needed = roles_for(method, template)
    if not needed:
        raise ApiError(ErrorCode.METHOD_NOT_ALLOWED, "this method is not allowed here")
    scope = scope_of(user.roles, method, template)
    if scope is Scope.NONE:
        raise ApiError(ErrorCode.FORBIDDEN, f"{user.id} may not do this: it needs the role {' or '.join(needed)}")
    return scope


def not_for(user: User, plugin: str) -> ApiError:
    """The refusal to run a plugin for somebody who is no administrator; on record in the server's log."""
    logger.warning("%s, who is no administrator, asked for %.80r", user.id, plugin)
    return ApiError(ErrorCode.FORBIDDEN, f"{plugin[:80]} runs inside the server: for administrators only")


class _Asked(msgspec.Struct):
    """The function that a job or a run is asked for, whatever else the request says."""

    function: str = ""


class _Asking(msgspec.Struct):
    """A request for jobs, or for a run."""

    params: _Asked | list[_Asked]


def plugin_asked_for(method: str, template: str, body: bytes) -> str:
    """The plugin that a request is for, which other roles may call than others of its kind; empty if it is for none."""
    if (method, template) not in {("POST", "/jobs/"), ("POST", "/runs/")}:
        return ""
    try:
        params = msgspec.json.decode(body, type=_Asking).params
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return ""
    asked = params if isinstance(params, list) else [params]
    return next((each.function for each in asked if each.function.startswith(f"{RESERVED_NAMESPACE}/")), "")
