"""Logging to stderr, one line a record."""

from __future__ import annotations

import json
import logging
import re
import socket
import sys
import time
from contextvars import ContextVar

from dts.errors import ConfigError

REQUEST: ContextVar[str] = ContextVar("dts_request", default="")
"""The id of the request that is being answered: `X-Request-ID`."""

USER: ContextVar[str] = ContextVar("dts_user", default="")
"""The user who signed it."""


def set_up_logging(level: str, form: str = "text") -> None:
    """Send records at or above `level` (a name such as INFO) to stderr, as lines of text or of JSON.

    Raises:
        ConfigError: there is no such level.
    """
    number = logging.getLevelNamesMapping().get(level.upper())
    if number is None:
        raise ConfigError(f"[logging.level] {level!r} is not a level: use DEBUG, INFO, WARNING or ERROR")
    handler = logging.StreamHandler(sys.stderr)
    text = EscapingFormatter("%(asctime)s %(levelname)-7s %(process)d %(name)s: %(message)s")
    handler.setFormatter(JsonFormatter() if form == "json" else text)
    logging.basicConfig(level=number, handlers=[handler], force=True)
    for noisy in ("aioamqp", "pymongo", "asyncio", "tornado.access"):
        logging.getLogger(noisy).setLevel(max(number, logging.WARNING))


class EscapingFormatter(logging.Formatter):
    """Formats records so that no text in a message passes for a line of the log, or commands a terminal.

    Names and errors come from requests, messages and other hosts. Their control characters are shown as escapes, and
    what follows a line break is indented, as no line of the log is.
    """

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802  (logging's own name)
        """The line of a record, without its traceback."""
        line = super().formatMessage(record)
        if request := REQUEST.get():
            line += f" [request {request}]"
        return _CONTROL.sub(_escaped, line).replace("\n", "\n    ")


class JsonFormatter(logging.Formatter):
    """Formats each record as one line of JSON: an object whose fields docs/operations.md has.

    What is not known of a record is left out. A traceback is a field of it, so that nothing takes a second line.
    """

    _host = socket.gethostname()

    def format(self, record: logging.LogRecord) -> str:
        """The line of a record."""
        found = {
            "time": f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(record.created))}.{int(record.msecs):03d}Z",
            "level": record.levelname,
            "host": self._host,
            "process": record.process,
            "logger": record.name,
            "message": record.getMessage(),
            "run": getattr(record, "run", ""),
            "job": getattr(record, "job", ""),
            "request": REQUEST.get(),
            "user": USER.get(),
        }
        if record.exc_info:
            found["traceback"] = self.formatException(record.exc_info)
        # ASCII alone: no character of a message can break the line, or command a terminal.
        return json.dumps({name: value for name, value in found.items() if value not in ("", None)}, default=str)


_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")
"""Characters that move a cursor, break a line or turn the direction of writing; tab and line break are left out."""


def _escaped(match: re.Match[str]) -> str:
    return match[0].encode("unicode_escape").decode()
