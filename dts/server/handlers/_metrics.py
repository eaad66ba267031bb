"""Figures about requests."""

from __future__ import annotations

from prometheus_client import Histogram

from dts.runtime.metrics import CALL_SECONDS
from dts.server.handlers._base import METHODS, DtsHandler

_REQUESTS = Histogram(
    "dts_http_request_duration_seconds",
    "Requests by the pattern of their route, from the head to the last byte of the answer.",
    ["route", "method", "status"],
    buckets=(*CALL_SECONDS, 30.0, 60.0),
)


def observe_request(handler: DtsHandler) -> None:
    """Count a request that was answered."""
    request = handler.request
    method = request.method if request.method in (*METHODS, "HEAD") else "other"
    _REQUESTS.labels(handler.template or "none", method, handler.get_status()).observe(request.request_time())
