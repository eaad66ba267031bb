"""The codes of errors that the server answers with, and the status that goes with each."""

from __future__ import annotations

from enum import Enum


class ErrorCode(Enum):
    """An error's code, as in `{"error": {"code": …}}`, with its HTTP status."""

    ARGUMENT_MISSING = ("argument_missing", 400)
    ARGUMENT_INVALID = ("argument_invalid", 400)
    JSON_INVALID = ("json_invalid", 400)
    BODY_INVALID = ("body_invalid", 400)
    NAME_INVALID = ("name_invalid", 400)
    UNAUTHORIZED = ("unauthorized", 401)
    FORBIDDEN = ("forbidden", 403)
    NOT_FOUND = ("not_found", 404)
    FUNCTION_NOT_FOUND = ("function_not_found", 404)
    METHOD_NOT_ALLOWED = ("method_not_allowed", 405)
    NAMESPACE_NOT_FOUND = ("namespace_not_found", 404)
    ALREADY_EXISTS = ("already_exists", 409)
    IN_USE = ("in_use", 409)
    LAST_ADMINISTRATOR = ("last_administrator", 409)
    LOG_DAMAGED = ("log_damaged", 409)
    FUNCTION_DISABLED = ("function_disabled", 409)
    KEY_CONFLICT = ("key_conflict", 409)
    BLOCK_CONFLICT = ("block_conflict", 409)
    JOB_ENDED = ("job_ended", 409)
    RUN_NOT_OPEN = ("run_not_open", 409)
    RUN_ENDED = ("run_ended", 409)
    VERSION_MISMATCH = ("version_mismatch", 412)
    TOO_LARGE = ("too_large", 413)
    UNSUPPORTED_MEDIA_TYPE = ("unsupported_media_type", 415)
    LIMIT_EXCEEDED = ("limit_exceeded", 429)
    INTERNAL_ERROR = ("internal_error", 500)
    HOST_UNAVAILABLE = ("host_unavailable", 424)
    CLIENT_GONE = ("client_gone", 499)
    STORE_UNAVAILABLE = ("store_unavailable", 503)
    OVERLOADED = ("overloaded", 503)

    def __init__(self, code: str, status: int) -> None:
        self.code = code
        self.status = status


CONTENT_JSON = "application/json"
CONTENT_NDJSON = "application/x-ndjson"
CONTENT_PROTOBUF = "application/x-protobuf"

RETRY_AFTER = 2
"""Seconds that a client is asked to wait when the store is away."""

MAX_WAIT = 30.0
"""Seconds that a request for results may wait at most."""

MAX_RESULTS = 100_000
"""Jobs that one answer with results holds at most, about."""

MAX_RETRIEVABLES = 1000
"""Ids of finished jobs in the answer to `GET /jobs/` at most."""

MAX_PAGE = 1000
"""Rows of a list in one answer at most."""
