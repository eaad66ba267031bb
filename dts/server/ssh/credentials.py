"""Keeps the credentials in URLs out of what is shown: of commands, of their output, and of what is on record."""

from __future__ import annotations

import re

_USERINFO = re.compile(r"(?<=://)[^\s/?#]*@")


def has_credentials(text: str) -> bool:
    """Whether there is a URL with a user, a token or a password in it."""
    return _USERINFO.search(text) is not None


def without_credentials(text: str) -> str:
    """A text whose URLs have `***` in place of user and password."""
    return _USERINFO.sub("***@", text)
