"""How refusals and faults become answers: one table from an exception to a code and a message."""

from __future__ import annotations

from http.client import responses

from tornado.web import HTTPError

from dts.errors import (
    AuthError,
    BlockConflict,
    BrokerUnavailable,
    ConfigError,
    DuplicateKey,
    InvalidInput,
    InvalidName,
    LastAdministrator,
    LogDamaged,
    StoreUnavailable,
    TooLarge,
    WireError,
)
from dts.server.access.limits import OverLimit
from dts.server.audit.log import EndNotRecorded, EndRefused, LogRefused, NotBegun
from dts.server.consts import ErrorCode
from dts.server.intake.unique import AnotherRequest, OnItsWay


class ApiError(HTTPError):
    """An answer with an error. The message says what to do."""

    def __init__(self, code: ErrorCode, message: str) -> None:
        super().__init__(code.status, log_message=None)
        self.code = code
        self.message = message


_BY_TYPE: tuple[tuple[type[Exception], ErrorCode], ...] = (
    (LogRefused, ErrorCode.INTERNAL_ERROR),
    (EndRefused, ErrorCode.INTERNAL_ERROR),
    (LogDamaged, ErrorCode.LOG_DAMAGED),
    (NotBegun, ErrorCode.STORE_UNAVAILABLE),
    (EndNotRecorded, ErrorCode.STORE_UNAVAILABLE),
    (StoreUnavailable, ErrorCode.STORE_UNAVAILABLE),
    (BrokerUnavailable, ErrorCode.STORE_UNAVAILABLE),
    (AuthError, ErrorCode.UNAUTHORIZED),
    (InvalidName, ErrorCode.NAME_INVALID),
    (TooLarge, ErrorCode.TOO_LARGE),
    (InvalidInput, ErrorCode.ARGUMENT_INVALID),
    (WireError, ErrorCode.BODY_INVALID),
    (BlockConflict, ErrorCode.BLOCK_CONFLICT),
    (DuplicateKey, ErrorCode.ALREADY_EXISTS),
    (LastAdministrator, ErrorCode.LAST_ADMINISTRATOR),
    (OverLimit, ErrorCode.LIMIT_EXCEEDED),
    (OnItsWay, ErrorCode.STORE_UNAVAILABLE),
    (AnotherRequest, ErrorCode.KEY_CONFLICT),
)


_AWAY: dict[type[Exception], str] = {
    StoreUnavailable: "the store does not answer: try again in a moment",
    BrokerUnavailable: "the broker does not answer: try again in a moment",
}
"""What is said in place of the error itself, which may name hosts, and how one gets in there: that is for the log."""


def describe_error(error: BaseException | None, status: int) -> tuple[ErrorCode, str]:
    """The code and the message for an error that a handler, or Tornado itself, raised."""
    if isinstance(error, ApiError):
        return error.code, error.message
    for kind, code in _BY_TYPE:
        if isinstance(error, kind):
            return code, _AWAY.get(kind, str(error))
    if isinstance(error, ConfigError):
        return ErrorCode.INTERNAL_ERROR, "the server is not configured correctly: its log says what is wrong"
    if status == 405:
        return ErrorCode.METHOD_NOT_ALLOWED, "this method is not allowed here"
    if 400 <= status < 500:
        return ErrorCode.ARGUMENT_INVALID, responses.get(status, "the request is not valid").lower()
    return ErrorCode.INTERNAL_ERROR, "the server failed; its log says how"
