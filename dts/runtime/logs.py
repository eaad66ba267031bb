"""Logging to stderr, one line a record."""

from __future__ import annotations

import logging
import re
import sys

from dts.errors import ConfigError


def set_up_logging(level: str) -> None:
    """Send records at or above `level` (a name such as INFO) to stderr.

    Raises:
        ConfigError: there is no such level.
    """
    number = logging.getLevelNamesMapping().get(level.upper())
    if number is None:
        raise ConfigError(f"[logging.level] {level!r} is not a level: use DEBUG, INFO, WARNING or ERROR")
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(EscapingFormatter("%(asctime)s %(levelname)-7s %(process)d %(name)s: %(message)s"))
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
        return _CONTROL.sub(_escaped, super().formatMessage(record)).replace("\n", "\n    ")


_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")
"""Characters that move a cursor, break a line or turn the direction of writing; tab and line break are left out."""


def _escaped(match: re.Match[str]) -> str:
    return match[0].encode("unicode_escape").decode()
