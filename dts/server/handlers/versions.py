"""Versions of records as entity tags, and changes that are meant for one version only (RFC 9110)."""

from __future__ import annotations

import re

from dts.model import Record
from dts.server.consts import ErrorCode
from dts.server.handlers.errors import ApiError

_TAG = re.compile(r'(?:W/)?"[\x21\x23-\x7e\x80-\xff]*"')
_TAGS = re.compile(rf"\s*{_TAG.pattern}(?:\s*,\s*{_TAG.pattern})*\s*")
"""A list of entity tags (RFC 9110, 8.8.3 and 13.1.1)."""


def etag(record: Record) -> str:
    """A record's version as an entity tag."""
    return f'"{record.version}"'


def check_version(if_match: str | None, record: Record) -> None:
    """Make sure that a record has a version that the value of an If-Match header names; without one, any will do.

    Raises:
        ApiError: it has another one.
    """
    expected = "*" if if_match is None else if_match.strip()
    tags = _TAG.findall(expected) if _TAGS.fullmatch(expected) else []
    if expected != "*" and etag(record) not in tags:  # a weak one never matches, by the same rule
        raise ApiError(
            ErrorCode.VERSION_MISMATCH,
            f"{record.id[:80]} has version {record.version} by now, not {expected[:40]}: read it again",
        )
