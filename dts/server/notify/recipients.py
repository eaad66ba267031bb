"""Who gets a notice: from what a rule or a run names to mail addresses and URLs."""

from __future__ import annotations

import re
from collections.abc import Iterable

from dts.config import MailSettings
from dts.errors import InvalidInput
from dts.model import User
from dts.server.notify.webhook import check_url
from dts.store import Store

DEFAULT = "default"
"""Those in `[mail] to`: who gets what names nobody else."""

_ADDRESS = re.compile(r"[A-Za-z0-9.!#$%&'*+/=?^_`{|}~-]{1,64}@[A-Za-z0-9]([A-Za-z0-9.-]{0,252}[A-Za-z0-9])?")
"""A mail address as forms take it (HTML Living Standard, "valid e-mail address"), in ASCII."""

_GROUPS = ("user", "role", "namespace")


def check_recipient(text: str) -> str:
    """Return what may name a recipient: a mail address, the URL of a webhook, `user:ID`, `role:NAME`, `namespace:NAME`,
    or `default`.

    Raises:
        InvalidInput: it is none of these.
    """
    if "://" in text:
        return check_url(text)
    kind, colon, name = text.partition(":")
    if text == DEFAULT or is_address(text) or (colon and kind in _GROUPS and name):
        return text
    raise InvalidInput(
        f"{text[:80]!r} is no recipient: give a mail address, the URL of a webhook, user:ID, role:NAME (all users of "
        "a role), namespace:NAME (all its members), or default ([mail] to)"
    )


def is_address(text: str) -> bool:
    """Whether a text is a mail address."""
    return _ADDRESS.fullmatch(text) is not None


async def resolve(store: Store, settings: MailSettings, names: Iterable[str]) -> list[str]:
    """The mail addresses and URLs that recipients stand for now, each once. Users who are disabled or have no address
    get nothing.
    """
    found: dict[str, None] = {}
    for name in names:
        for target in await _targets(store, settings, name):
            found[target] = None
    return list(found)


async def _targets(store: Store, settings: MailSettings, name: str) -> Iterable[str]:
    kind, _, value = name.partition(":")
    if name == DEFAULT:
        return settings.to
    if kind not in _GROUPS:
        return [name]
    where = {"id": value} if kind == "user" else {kind + "s": value}
    users = await store.list_records(User, where=where, limit=None)
    return [user.email for user in users if user.email and not user.disabled]
