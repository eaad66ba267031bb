"""Users and their signing keys: the first administrator, keys encrypted at rest, requests verified."""

from __future__ import annotations

import hmac
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from cryptography.fernet import Fernet, InvalidToken

from dts.auth import WINDOW, Claim, KeccakAuthenticator, Request, derive_key, new_secret
from dts.errors import AuthError, ConfigError, DuplicateKey
from dts.model import ADMINISTRATOR, User
from dts.runtime.private_files import create_private
from dts.server.lookup.cache import Cache
from dts.store import Store

logger = logging.getLogger(__name__)

FIRST_ADMINISTRATOR = "admin"
_CACHE_SECONDS = 2.0
_LOOK_AGAIN_SECONDS = 0.1
_LOOKED_AGAIN_SIZE = 10_000
_NOBODY = bytes(32)


class KeyBox:
    """Encrypts signing keys with the server's key file (Fernet: AES-128-CBC and HMAC-SHA-256)."""

    def __init__(self, key: bytes) -> None:
        self._fernet = Fernet(key)
        self._key = key

    @classmethod
    def open(cls, path: Path) -> KeyBox:
        """The box of a key file; the file is made, for its owner alone, if there is none.

        Raises:
            ConfigError: the file cannot be read or made, or does not hold a key.
        """
        try:
            create_private(path, Fernet.generate_key())
            return cls(path.read_bytes().strip())
        except (OSError, ValueError) as error:
            raise ConfigError(f"the server's key file {path} cannot be used: {error}") from error

    def derive(self, purpose: str) -> bytes:
        """A key of 32 bytes for a purpose, of which neither the key file nor another purpose's key can be told."""
        return hmac.digest(self._key, b"dts-" + purpose.encode(), "sha256")

    def seal(self, key: bytes) -> bytes:
        """A signing key, or another secret, as the store may see it."""
        return self._fernet.encrypt(key)

    def unseal(self, sealed: bytes) -> bytes:
        """The signing key.

        Raises:
            ConfigError: it was sealed with another key file.
        """
        try:
            return self._fernet.decrypt(sealed)
        except InvalidToken as error:
            raise ConfigError(
                "the store's user keys were encrypted with another key file: "
                "start the server with the key file that this store was first used with ([server] key_file)"
            ) from error


@dataclass(frozen=True, slots=True)
class Caller:
    """Who signed a request, and what they claim in it; `replaced` is whether their secret is in its grace time."""

    user: User
    claim: Claim
    replaced: bool = False


class Accounts:
    """Knows who sent a request."""

    def __init__(self, store: Store, keys: KeyBox) -> None:
        self._store = store
        self.keys = keys
        self._known: Cache[tuple[User, list[bytes]]] = Cache(self._load, _CACHE_SECONDS)
        self._looked_again: dict[str, float] = {}

    async def authenticate(self, header: str | None, request: Request, hosts: Sequence[str]) -> Caller:
        """The user who signed the head of a request for one of these hosts. The body is still to be checked.

        Raises:
            AuthError: there is no valid signature, or it was used before; the answer does not say which.
        """
        claim = KeccakAuthenticator.parse(header)
        requests = [replace(request, host=host) for host in hosts]
        found = await self._known.get(claim.user_id)
        key = _signed_with(claim, requests, found)
        if found and (found[0].disabled or key is None) and self._may_look_again(claim.user_id):
            # Another server may have enabled this user, or given them another secret, a moment ago.
            found = await self._known.renew(claim.user_id)
            key = _signed_with(claim, requests, found)
        if not found or found[0].disabled or key is None:
            raise AuthError
        if not await self._store.use_nonce(claim.user_id, claim.nonce, time.time() + 2 * WINDOW):
            raise AuthError
        return Caller(found[0], claim, replaced=key > 0)

    def _may_look_again(self, user_id: str) -> bool:
        """Whether to read a user anew for a signature that does not fit; not for each of many, which may be rubbish."""
        now = time.monotonic()
        if now < self._looked_again.get(user_id, 0.0) + _LOOK_AGAIN_SECONDS:
            return False
        if len(self._looked_again) >= _LOOKED_AGAIN_SIZE:
            self._looked_again.clear()
        self._looked_again[user_id] = now
        return True

    def forget(self, user_id: str) -> None:
        """Read a user anew: somebody has changed them just now."""
        self._known.forget(user_id)

    def sealed_key(self, user_id: str, secret: str) -> bytes:
        """The signing key of a user with that secret, as the store may see it."""
        return self.keys.seal(derive_key(user_id, secret))

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

    async def _load(self, user_id: str) -> tuple[User, list[bytes]] | None:
        user = await self._store.get_user(user_id)
        if user is None:
            return None
        keys = [self.keys.unseal(user.key)]
        if user.previous_key and time.time() < (user.previous_until or 0.0):
            keys.append(self.keys.unseal(user.previous_key))
        return user, keys


def _signed_with(claim: Claim, requests: Sequence[Request], found: tuple[User, list[bytes]] | None) -> int | None:
    """Which of a user's keys made a signature. Every key is tried, so that the time does not tell which one."""
    keys = found[1] if found else [_NOBODY]
    tried = [any([KeccakAuthenticator.verify(claim, key, request) for request in requests]) for key in keys]
    return tried.index(True) if found is not None and True in tried else None


def _first_secret(path: Path) -> tuple[bool, str]:
    """The secret in a file, and whether it was made just now because there was none."""
    try:
        created = create_private(path, new_secret().encode() + b"\n")
        return created, path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"the administrator's secret file {path} cannot be used: {error}") from error
