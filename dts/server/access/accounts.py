"""Users and their signing keys: the first administrator, keys encrypted at rest, requests verified."""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from cachetools import TTLCache

from dts.auth import WINDOW, Claim, Credentials, KeccakAuthenticator, Request, derive_key, new_secret
from dts.errors import AuthError, ConfigError, DuplicateKey
from dts.model import ADMINISTRATOR, User
from dts.runtime.log_throttle import LogThrottle
from dts.runtime.private_files import create_private
from dts.server.access.key_box import KeyBox
from dts.server.lookup.cache import Cache
from dts.store import Store

logger = logging.getLogger(__name__)

FIRST_ADMINISTRATOR = "admin"
_CACHE_SECONDS = 2.0
_LOOK_AGAIN_SECONDS = 0.1
_LOOKED_AGAIN_SIZE = 10_000
_KEYS = 2
"""Keys that each signature is tried with, as many as a user can have: else the time would tell of users."""


@dataclass(frozen=True, slots=True)
class Caller:
    """Who signed a request, and what they claim in it; `replaced` is whether their secret is in its grace time."""

    user: User
    claim: Claim
    replaced: bool = False


@dataclass(frozen=True, slots=True)
class _Known:
    """What is known of a user id: the user, if there is one, and their keys, the current one first."""

    user: User | None
    keys: list[bytes]

    @property
    def enabled(self) -> bool:
        return self.user is not None and not self.user.disabled


class Accounts:
    """Knows who sent a request."""

    def __init__(self, store: Store, keys: KeyBox) -> None:
        self._store = store
        self.keys = keys
        self._known: Cache[_Known] = Cache(self._load, _CACHE_SECONDS)
        self._unusable = LogThrottle()
        self._decoy = keys.seal(secrets.token_bytes(32), "decoy")
        self._looked_again: TTLCache[str, None] = TTLCache(_LOOKED_AGAIN_SIZE, _LOOK_AGAIN_SECONDS)

    async def authenticate(self, header: str | None, request: Request, hosts: Sequence[str]) -> Caller:
        """The user who signed the head of a request for one of these hosts. The body is still to be checked.

        Raises:
            AuthError: there is no valid signature, or it was used before; the answer does not say which.
        """
        claim = KeccakAuthenticator.parse(header)
        requests = [replace(request, host=host) for host in hosts]
        found = await self._known.get(claim.user_id)
        key = _signed_with(claim, requests, found)
        if (key is None or not found or not found.enabled) and self._may_look_again(claim.user_id):
            # Another server may have enabled this user, or given them another secret, a moment ago.
            found = await self._known.renew(claim.user_id)
            key = _signed_with(claim, requests, found)
        if key is None or found is None or found.user is None or found.user.disabled:
            raise AuthError
        if not await self._store.use_nonce(claim.user_id, claim.nonce, time.time() + 2 * WINDOW):
            raise AuthError
        return Caller(found.user, claim, replaced=key > 0)

    async def authenticate_fleet(
        self, allowed: Sequence[Credentials], header: str | None, request: Request, hosts: Sequence[str]
    ) -> None:
        """Make sure that one of these credentials, which no user has, signed the head of a request.

        Raises:
            AuthError: none did, or the request was made before.
        """
        claim = KeccakAuthenticator.parse(header)
        keys = [derive_key(each.user_id, each.secret) for each in allowed if each.user_id == claim.user_id]
        requests = [replace(request, host=host) for host in hosts]
        if not any([KeccakAuthenticator.verify(claim, key, each) for key in keys for each in requests]):
            raise AuthError
        # With a space no user's nonces can be among these.
        if not await self._store.use_nonce(f"{claim.user_id} ", claim.nonce, time.time() + 2 * WINDOW):
            raise AuthError

    async def check_key_file(self) -> None:
        """Make sure that the server has the key file that the keys in the store were encrypted with.

        Raises:
            ConfigError: it has another one.
            StoreUnavailable: the store does not answer.
        """
        for user in await self._store.list_records(User, limit=1):
            self.keys.unseal(user.key, _place(user.id))

    def _may_look_again(self, user_id: str) -> bool:
        """Whether to read a user anew for a signature that does not fit; not for each of many, which may be rubbish."""
        if user_id in self._looked_again:
            return False
        self._looked_again[user_id] = None
        return True

    def forget(self, user_id: str) -> None:
        """Read a user anew: somebody has changed them just now."""
        self._known.forget(user_id)

    def sealed_key(self, user_id: str, secret: str) -> bytes:
        """The signing key of a user with that secret, as the store may see it."""
        return self.keys.seal(derive_key(user_id, secret), _place(user_id))

    async def ensure_administrator(self, secret_file: Path) -> None:
        """Create the first administrator if there is no user at all, and leave the secret in `secret_file`.

        A secret that the file holds already is taken: several stores may be served from one folder.
        """
        if await self._store.has_users():
            return
        created, secret = _first_secret(secret_file)
        now = round(time.time(), 6)
        key = self.sealed_key(FIRST_ADMINISTRATOR, secret)
        user = User(FIRST_ADMINISTRATOR, key, frozenset({ADMINISTRATOR}), now, modified=now)
        try:
            await self._store.add_user(user)
        except DuplicateKey:
            return  # another server was first; it has the same file, or its operator has its secret
        which = "random secret, now in" if created else "secret that was in"
        logger.warning("first start: created the user %s with the %s %s", user.id, which, secret_file)

    async def _load(self, user_id: str) -> _Known:
        """What the store knows of a user id; it takes the same time for one that nobody has."""
        user = await self._store.get_user(user_id)
        if user is None:
            self.keys.unseal(self._decoy, "decoy")
            return _Known(None, [])
        sealed = [user.key]
        if user.previous_key and time.time() < (user.previous_until or 0.0):
            sealed.append(user.previous_key)
        try:
            return _Known(user, [self.keys.unseal(key, _place(user_id)) for key in sealed])
        except ConfigError as error:
            if self._unusable.is_due():
                logger.error("the user %s cannot sign in: %s", user_id, error)
            return _Known(user, [])


def _place(user_id: str) -> str:
    """Where a user's keys are in the store: they are of no use in another record."""
    return f"users/{user_id}"


def _signed_with(claim: Claim, requests: Sequence[Request], found: _Known | None) -> int | None:
    """Which of a user's keys made a signature. As many are tried for each user, so that the time tells nothing."""
    keys = found.keys if found is not None else []
    padded = [*keys, *(secrets.token_bytes(32) for _ in range(_KEYS - len(keys)))]
    tried = [any([KeccakAuthenticator.verify(claim, key, request) for request in requests]) for key in padded]
    return next((index for index in range(len(keys)) if tried[index]), None)


def _first_secret(path: Path) -> tuple[bool, str]:
    """The secret in a file, and whether it was made just now because there was none."""
    try:
        created = create_private(path, new_secret().encode() + b"\n")
        return created, path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"the administrator's secret file {path} cannot be used: {error}") from error
