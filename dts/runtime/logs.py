"""Logging to stderr, one line a record."""

from __future__ import annotations

import logging
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
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)-7s %(process)d %(name)s: %(message)s"))
    logging.basicConfig(level=number, handlers=[handler], force=True)
    for noisy in ("aioamqp", "pymongo", "asyncio", "tornado.access"):
        logging.getLogger(noisy).setLevel(max(number, logging.WARNING))
